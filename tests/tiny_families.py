"""A checkpoint of a few hundred kilobytes for every family, with random weights, in that family's own files."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from tiny_clip import TINY, corpus, write_tiny
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torchvision_standin import import_open_clip

from clipdex_export.quiet import quiet
from clipdex_export.sentences import GATE_TEXTS

# No family may owe anything to 224 pixels, 512 numbers or 77 tokens.
SIZE, WIDTH, LAYERS, LENGTH = 48, 32, 2, 24


@cache
def lines() -> tuple[str, ...]:
    """Prose and the gate's texts, to learn vocabularies from: every script is in them."""
    return (*[line for line in corpus() if line.strip()][:3000], *GATE_TEXTS)


def write_hf_clip(directory: Path) -> str:
    """Another width of the projection, and another patch, than any published one."""
    from dataclasses import replace

    shape = replace(
        TINY, image_size=SIZE, patch_size=12, projection=40, context_length=LENGTH, vision_layers=LAYERS
    )
    return str(write_tiny(directory, merges=100, shape=replace(shape, text_layers=LAYERS)))


def seeded(make: Callable[[], Any]) -> Any:
    """A model whose weights spread: those of a fresh one are so small that all pictures look alike to it."""
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make().float().eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.mul_(1.5)
                elif weight.numel() > 1:
                    weight.add_(0.1 * torch.randn_like(weight))
            for buffer_name, buffer in model.named_buffers():
                if buffer_name.endswith("running_var"):
                    buffer.copy_(0.5 + torch.rand_like(buffer))
                elif buffer_name.endswith("running_mean"):
                    buffer.copy_(0.1 * torch.randn_like(buffer))
    return model


# SigLIP


def siglip_config(vocabulary: int) -> Any:
    from transformers import SiglipConfig

    tower = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS}
    tower |= {"num_attention_heads": 2}
    return SiglipConfig(
        text_config=tower
        | {"vocab_size": vocabulary, "max_position_embeddings": LENGTH, "projection_size": WIDTH},
        vision_config=tower | {"image_size": SIZE, "patch_size": 16},
    )


def write_siglip_model(directory: Path, vocabulary: int, resample: int) -> None:
    from transformers import SiglipModel

    model = seeded(lambda: SiglipModel(siglip_config(vocabulary)))
    with torch.no_grad():
        model.logit_scale.fill_(4.6)
        model.logit_bias.fill_(-12.5)
    with quiet():
        model.save_pretrained(directory)
    write_json(
        directory / "preprocessor_config.json",
        image_processor_type="SiglipImageProcessor",
        do_resize=True,
        size={"height": SIZE, "width": SIZE},
        resample=resample,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        do_convert_rgb=None,
    )


def sentence_piece_model(size: int = 800) -> bytes:
    """A unigram model, with the ids and the normalisation of T5's, which SigLIP's is."""
    from sentencepiece import SentencePieceTrainer

    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines()),
        model_writer=written,
        vocab_size=size,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        character_coverage=0.9995,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    return written.getvalue()


def write_siglip(directory: Path) -> str:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "spiece.model").write_bytes(sentence_piece_model())
    write_json(
        directory / "tokenizer_config.json",
        tokenizer_class="SiglipTokenizer",
        model_input_names=["input_ids"],
        model_max_length=LENGTH,
        do_lower_case=True,
        eos_token="</s>",
        pad_token="</s>",
        unk_token="<unk>",
    )
    write_siglip_model(directory, vocabulary=810, resample=3)
    return str(directory)


def write_siglip2(directory: Path) -> str:
    """Gemma's kind of vocabulary: byte-fallback BPE in a tokenizer.json, lower-cased, with a pad token."""
    directory.mkdir(parents=True, exist_ok=True)
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", behavior="merged_with_next")
    all_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(
        lines(),
        trainers.BpeTrainer(vocab_size=900, special_tokens=[*specials, *all_bytes], show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(
        directory / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        padding_side="right",
        model_max_length=LENGTH,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    write_siglip_model(directory, vocabulary=900, resample=2)
    return str(directory)


# OpenCLIP


def open_clip_config(**text: Any) -> dict[str, Any]:
    return {
        "embed_dim": 24,
        "vision_cfg": {"image_size": SIZE, "layers": LAYERS, "width": WIDTH, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": LENGTH, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": LAYERS}
        | text,
    }


def open_clip_model(directory: Path, config: Mapping[str, Any], preprocess: Mapping[str, Any]) -> Any:
    """A model of this config, which is written as OpenCLIP writes it to a hub."""
    open_clip = import_open_clip()
    write_json(directory / "open_clip_config.json", model_cfg=config, preprocess_cfg=preprocess)
    return seeded(
        lambda: open_clip.create_model(f"local-dir:{directory}", load_weights=False, pretrained_text=False)
    )


def write_open_clip_vit(directory: Path) -> str:
    """A directory as `timm/vit_base_patch32_clip_224.openai` is: QuickGELU, the shorter side and a crop."""
    from safetensors.torch import save_file

    model = open_clip_model(directory, open_clip_config() | {"quick_gelu": True}, {"interpolation": "bicubic"})
    save_file(model.state_dict(), directory / "open_clip_model.safetensors")
    return str(directory)


def write_open_clip_resnet(directory: Path) -> str:
    """An architecture by name and a file: attention over the last places of a ResNet of 64 pixels."""
    config = open_clip_config()
    config["vision_cfg"] = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}
    model = open_clip_model(directory, config, {})
    with torch.no_grad():
        model.visual.attnpool.positional_embedding.mul_(0.1)
        model.visual.attnpool.c_proj.bias.zero_()
        for name, weight in model.visual.named_parameters():
            if name.endswith("bn3.weight"):
                weight.add_(1)  # a fresh one is 0: every block would pass its input on
    write_json(directory / "tiny-RN.json", **config)
    import_open_clip().add_model_config(directory / "tiny-RN.json")
    (directory / "weights").mkdir()
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, directory / "weights/1.pt"
    )
    return f"open_clip:tiny-RN/{directory}/weights/1.pt"


def write_open_clip_timm(directory: Path) -> str:
    """As OpenCLIP's SigLIP: a vision tower of timm, no mask, a head with bias, a tokenizer of transformers."""
    config = open_clip_config(
        no_causal_mask=True,
        proj_bias=True,
        pool_type="last",
        vocab_size=900,
        hf_tokenizer_name="in this directory",
        tokenizer_kwargs={"clean": "canonicalize"},
    )
    config["vision_cfg"] = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "avg"}
    config |= {"custom_text": True, "init_logit_bias": -10}
    write_siglip2(directory)
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (directory / name).unlink()
    preprocess = {"mean": 0.5, "std": 0.5, "interpolation": "bilinear", "resize_mode": "squash"}
    model = open_clip_model(directory, config, preprocess)
    torch.save(model.state_dict(), directory / "open_clip_pytorch_model.bin")
    return str(directory)


def write_open_clip_coca(directory: Path) -> str:
    """CoCa: attention pools the places, the text has a token of its own at its end; the longer side, and black."""
    config = open_clip_config(embed_cls=True, output_tokens=True)
    config["vision_cfg"] |= {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    config["multimodal_cfg"] = {
        "context_length": LENGTH,
        "vocab_size": 49408,
        "width": WIDTH,
        "heads": 2,
        "layers": 1,
    }
    model = open_clip_model(directory, config | {"custom_text": True}, {"resize_mode": "longest"})
    torch.save(model.state_dict(), directory / "open_clip_pytorch_model.bin")
    return str(directory)


# sentence-transformers, M-CLIP, XLM-R


def write_st_clip(directory: Path) -> str:
    write_modules(directory, CLIPModel="0_CLIPModel")
    write_hf_clip(directory / "0_CLIPModel")
    return str(directory)


def write_modules(directory: Path, **paths: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(paths.items())
    ]
    (directory / "modules.json").write_text(json.dumps(listed))


def write_bert_text(directory: Path, dim: int) -> None:
    """As clip-ViT-B-32-multilingual-v1: a DistilBERT with WordPiece, the mean, and a matrix without bias."""
    from safetensors.torch import save_file
    from transformers import DistilBertConfig, DistilBertModel

    write_modules(directory, Transformer="", Pooling="1_Pooling", Dense="2_Dense")
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(lines(), trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(
        directory / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    )
    write_json(directory / "sentence_bert_config.json", max_seq_length=LENGTH, do_lower_case=False)
    config = DistilBertConfig(
        vocab_size=900, dim=WIDTH, hidden_dim=64, n_layers=LAYERS, n_heads=2, max_position_embeddings=40
    )
    with quiet():
        seeded(lambda: DistilBertModel(config)).save_pretrained(directory)
    write_json(
        directory / "1_Pooling" / "config.json",
        word_embedding_dimension=WIDTH,
        pooling_mode_cls_token=False,
        pooling_mode_mean_tokens=True,
        pooling_mode_max_tokens=False,
    )
    write_json(
        directory / "2_Dense" / "config.json",
        in_features=WIDTH,
        out_features=dim,
        bias=False,
        activation_function="torch.nn.modules.linear.Identity",
    )
    dense = seeded(lambda: torch.nn.Linear(WIDTH, dim, bias=False))
    save_file({"linear.weight": dense.weight.detach()}, directory / "2_Dense" / "model.safetensors")


def write_xlm_roberta_tokenizer(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        lines(),
        trainers.UnigramTrainer(vocab_size=900, special_tokens=specials, unk_token="<unk>", show_progress=False),
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(directory / "tokenizer.json"))
    write_json(
        directory / "tokenizer_config.json",
        tokenizer_class="PreTrainedTokenizerFast",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def xlm_roberta_config() -> Any:
    from transformers import XLMRobertaConfig

    return roberta_config(XLMRobertaConfig, positions=140)


def roberta_config(kind: Any, positions: int) -> Any:
    """kind: RobertaConfig, or one derived from it."""
    return kind(
        vocab_size=950,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        max_position_embeddings=positions,
        type_vocab_size=1,
    )


def write_pair_sentence_transformers(directory: Path) -> str:
    image = write_hf_clip(directory / "image")
    write_bert_text(directory / "text", dim=40)
    return f"pair:{image}+{directory / 'text'}"


def write_pair_mclip(directory: Path) -> str:
    """As M-CLIP/XLM-Roberta-Large-Vit-B-32, whose config names its base model: here a directory."""
    from transformers import XLMRobertaModel

    image = write_open_clip_vit(directory / "image")
    text, base = directory / "text", directory / "base"
    with quiet():
        xlm_roberta_config().save_pretrained(base)
    write_xlm_roberta_tokenizer(text)
    write_json(text / "config.json", modelBase=str(base), numDims=24, transformerDimensions=WIDTH)
    model = seeded(lambda: XLMRobertaModel(xlm_roberta_config()))
    head = seeded(lambda: torch.nn.Linear(WIDTH, 24))
    state = {f"transformer.{name}": weight for name, weight in model.state_dict().items()}
    state |= {f"LinearTransformation.{name}": weight for name, weight in head.state_dict().items()}
    torch.save(state, text / "pytorch_model.bin")
    return f"pair:{image}+{text}"


def write_open_clip_xlm_roberta(directory: Path) -> str:
    """As OpenCLIP's xlm-roberta-base-ViT-B-32."""
    return write_open_clip_text(directory, xlm_roberta_config(), "mean_pooler")


def write_open_clip_text(directory: Path, text_model: Any, pooler: str) -> str:
    """OpenCLIP's ViT with a text model of transformers, which its config names: here a directory."""
    base = directory / "base"
    with quiet():
        text_model.save_pretrained(base)
    write_xlm_roberta_tokenizer(directory)
    config = open_clip_config()
    config["text_cfg"] = {
        "hf_model_name": str(base),
        "hf_tokenizer_name": str(base),
        "hf_proj_type": "mlp",
        "hf_pooler_type": pooler,
        "context_length": LENGTH,
    }
    model = open_clip_model(directory, config, {"interpolation": "bicubic"})
    torch.save(model.state_dict(), directory / "open_clip_pytorch_model.bin")
    return str(directory)


def write_json(path: Path, **fields: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields, indent=2) + "\n")


# name of the case -> writes a checkpoint into a directory and says what to give to an export
FAMILIES: Mapping[str, Callable[[Path], str]] = MappingProxyType(
    {
        "hf_clip": write_hf_clip,
        "siglip": write_siglip,
        "siglip2": write_siglip2,
        "open_clip_vit": write_open_clip_vit,
        "open_clip_resnet": write_open_clip_resnet,
        "open_clip_timm": write_open_clip_timm,
        "open_clip_coca": write_open_clip_coca,
        "open_clip_xlm_roberta": write_open_clip_xlm_roberta,
        "st_clip": write_st_clip,
        "pair_st": write_pair_sentence_transformers,
        "pair_mclip": write_pair_mclip,
    }
)
