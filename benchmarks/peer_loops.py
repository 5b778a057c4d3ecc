"""What others do with a list of JPEG files: runs in .venv-peers, under `peers.Peer`.

    python benchmarks/peer_loops.py NAME CHECKPOINT ONNX_FILE

Reads a line of JSON with paths, embeds them, saves the vectors, answers with a line of JSON: the seconds it took.
NAME: hf_one, the Hugging Face loop one picture at a time; hf_batched, 32 at a time; sentence_transformers, its
`encode(batch_size=32)`; onnxruntime, Pillow and a session, 32 at a time. Each as its documentation shows it.
hf_bf16 is hf_batched with the weights and the pixels in bfloat16.
"""

import json
import os
import sys
import time

import numpy as np
from PIL import Image

os.environ |= {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}

BATCH = 32


def hugging_face(checkpoint, batch, dtype="float32"):
    import torch
    from transformers import AutoImageProcessor, CLIPModel

    processor = AutoImageProcessor.from_pretrained(checkpoint)
    model = CLIPModel.from_pretrained(checkpoint, dtype=getattr(torch, dtype)).eval()

    @torch.inference_mode()
    def embed(paths):
        parts = []
        for start in range(0, len(paths), batch):
            images = [Image.open(path) for path in paths[start : start + batch]]
            inputs = processor(images=images, return_tensors="pt").to(model.dtype)
            features = model.get_image_features(**inputs)
            features = getattr(features, "pooler_output", features)
            parts.append((features / features.norm(dim=-1, keepdim=True)).float().numpy())
        return np.concatenate(parts)

    return embed


def sentence_transformers(checkpoint):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(checkpoint, device="cpu")

    def embed(paths):
        images = [Image.open(path) for path in paths]
        return model.encode(images, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False)

    return embed


def raw_onnxruntime(onnx_file):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx_file, options, providers=["CPUExecutionProvider"])

    def pixels(path):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
            width, height = image.size
            scale = 224 / min(width, height)
            image = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
            left, top = (image.width - 224) // 2, (image.height - 224) // 2
            return np.asarray(image.crop((left, top, left + 224, top + 224)))

    def embed(paths):
        parts = []
        for start in range(0, len(paths), BATCH):
            batch = np.stack([pixels(path) for path in paths[start : start + BATCH]])
            parts.append(session.run(["embedding"], {"pixels": batch})[0])
        return np.concatenate(parts)

    return embed


def main():
    name, checkpoint, onnx_file = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    embed = {
        "hf_one": lambda: hugging_face(checkpoint, 1),
        "hf_batched": lambda: hugging_face(checkpoint, BATCH),
        "hf_bf16": lambda: hugging_face(checkpoint, BATCH, "bfloat16"),
        "sentence_transformers": lambda: sentence_transformers(checkpoint),
        "onnxruntime": lambda: raw_onnxruntime(onnx_file),
    }[name]()
    for line in sys.stdin:
        request = json.loads(line)
        began = time.perf_counter()
        vectors = embed(request["paths"])
        seconds = time.perf_counter() - began
        np.save(request["save"], vectors.astype(np.float32))
        answers.write(json.dumps({"seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
