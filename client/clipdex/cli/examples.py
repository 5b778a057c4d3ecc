"""The examples that --help and docs/commands.md show, by command. Each parses; see tests/test_cli_help.py."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["EXAMPLES", "Example"]


class Example(NamedTuple):
    """A command to type, and what it does."""

    command: str
    does: str


EXAMPLES: dict[str, tuple[Example, ...]] = {
    "clipdex": (
        Example('clipdex find "a cat sleeping" ~/Pictures', "Search a folder in one command"),
        Example("clipdex index ~/Pictures --index photos.clipdex", "Index a folder"),
        Example('clipdex search "a cat sleeping" --index photos.clipdex', "Search it"),
    ),
    "clipdex find": (
        Example('clipdex find "a cat sleeping" ~/Pictures', "The five best of a folder"),
        Example('clipdex find "a cat" ~/Pictures -k 20 --open', "Show the results in the browser"),
        Example('clipdex find "eine Katze" ~/Pictures --model siglip2-b-32-256', "With another model"),
    ),
    "clipdex index": (
        Example("clipdex index ~/Pictures --index photos.clipdex", "A folder with its subfolders"),
        Example(
            "clipdex index shards/*.tar -i shards.clipdex --server gpu1:8001,gpu2:8001", "Two servers share it"
        ),
        Example("clipdex index photos.csv --column file -i photos.clipdex", "The pictures that a table names"),
        Example("find . -name '*.jpg' -print0 | clipdex index --files-from - -i x.clipdex", "A list of files"),
        Example("clipdex index ~/Photos -i photos.clipdex --decode fast", "Camera JPEGs, several times as fast"),
        Example("clipdex index ~/Pictures -i photos.clipdex --dry-run", "What would be done"),
        Example("clipdex index ~/Pictures -i photos.clipdex --refresh-metadata", "Dates and keywords, again"),
        Example("clipdex index shards/*.tar --out big.parts --parts 8 --part 3", "One of eight jobs"),
        Example("clipdex index shards/ -o big.parts --parts 64 --engine ray", "By the nodes of a Ray cluster"),
    ),
    "clipdex watch": (
        Example("clipdex watch ~/Pictures --out photos.clipdex", "Index a folder, and then whatever changes"),
        Example("clipdex watch /mnt/nas -o nas.clipdex --polling 60", "A network's folder, listed every minute"),
    ),
    "clipdex search": (
        Example('clipdex search "a dog on a beach" --index photos.clipdex', "By a text"),
        Example("clipdex search --image dog.jpg -i photos.clipdex -k 20 --html hits.html", "By a picture"),
        Example('clipdex search "snow" -i photos.clipdex --where "width > 1000"', "Large pictures only"),
        Example("clipdex search snow -i photos.clipdex --where \"taken >= '2024-06'\"", "Taken since June 2024"),
        Example("clipdex search --image crop.jpg -i photos.clipdex --verify", "What shows the same thing first"),
        Example("clipdex search --text beach --minus people -i photos.clipdex --json", "A mixture, for programs"),
    ),
    "clipdex match": (
        Example("clipdex match crop.jpg --index photos.clipdex", "Which picture is this a part of?"),
        Example("clipdex match print.jpg -i photos.clipdex --html found.html", "With the region that it shows"),
        Example('clipdex match crop.jpg -i photos.clipdex --within "a beach" --json', "Among some, for programs"),
    ),
    "clipdex push": (
        Example("clipdex push photos.clipdex qdrant://localhost/photos", "All of it, or what has changed since"),
        Example("clipdex push photos.clipdex milvus://gpu1:19530/photos --verify", "And compare"),
        Example("clipdex push photos.clipdex lancedb:///data/lance/photos", "A database in a folder"),
    ),
    "clipdex push-index": (
        Example("clipdex push-index photos.clipdex s3://bucket/photos", "All of it, or what has changed since"),
        Example(
            "clipdex push-index photos.clipdex s3://bucket/photos --prune", "And delete what it no longer needs"
        ),
    ),
    "clipdex pull": (
        Example("clipdex pull s3://bucket/photos photos.clipdex", "To search it here"),
        Example("clipdex pull s3://bucket/photos photos.clipdex --replace", "Bring it up to date"),
    ),
    "clipdex classify": (
        Example('clipdex classify ~/Pictures --labels "a cat, a dog, neither"', "One line per picture"),
        Example("clipdex classify ~/Pictures --labels-file labels.txt -k 1 --csv", "A table for a spreadsheet"),
    ),
    "clipdex info": (
        Example("clipdex info photos.clipdex", "What it holds"),
        Example("CLIPDEX_INDEX=photos.clipdex clipdex info --json", "The same for programs"),
    ),
    "clipdex failures": (
        Example("clipdex failures photos.clipdex", "Which files failed, and why"),
        Example("clipdex failures photos.clipdex --retry", "Try them again"),
    ),
    "clipdex forget": (
        Example("clipdex forget --index photos.clipdex ~/Pictures/private", "A folder with all below it"),
        Example("clipdex forget -i photos.clipdex --missing --dry-run", "Pictures whose files are gone"),
    ),
    "clipdex add": (
        Example("clipdex add cat.jpg dog.jpg -i photos.clipdex", "By their file names"),
        Example('clipdex add a.jpg --id 17 --metadata \'{"by": "Ada"}\' -i photos.clipdex', "By an id"),
        Example("clipdex add --ids-from items.csv -i photos.clipdex", "A table with the columns id and path"),
    ),
    "clipdex remove": (Example("clipdex remove cat.jpg 17 -i photos.clipdex", "Two items"),),
    "clipdex merge": (
        Example("clipdex merge a.clipdex b.clipdex --out all.clipdex", "Nothing is embedded again"),
    ),
    "clipdex split": (
        Example("clipdex split photos.clipdex --parts 8 --out photos.parts", "Eight parts"),
        Example("clipdex split photos.parts --parts 16 --out photos-16.parts", "Another number of parts"),
    ),
    "clipdex verify": (Example("clipdex verify photos.clipdex", "Exit status 1 if anything is damaged"),),
    "clipdex compact": (Example("clipdex compact photos.clipdex", "Free the space of removed pictures"),),
    "clipdex optimize": (Example("clipdex optimize photos.clipdex", "Once, and again after adding pictures"),),
    "clipdex dump": (
        Example("clipdex dump photos.clipdex vectors.npy --table paths.csv", "Vectors and paths"),
        Example("clipdex dump -i photos.clipdex wide.npy --where 'width > height'", "Some of them"),
    ),
    "clipdex duplicates": (
        Example("clipdex duplicates photos.clipdex --html duplicates.html", "Look at them first"),
        Example("clipdex duplicates photos.clipdex --kind local --html crops.html", "Crops and collages, too"),
        Example("clipdex duplicates photos.clipdex --kind exact --move-to ~/copies", "Move copies away"),
        Example("clipdex duplicates --undo ~/copies/moves.jsonl", "Move them back"),
    ),
    "clipdex retrieve": (
        Example('clipdex retrieve --prompt "a cat" --images_dir ~/Pictures', "The five best of a folder"),
    ),
    "clipdex serve": (
        Example("clipdex serve", "The models in ./model_repository, at 127.0.0.1:8001"),
        Example("clipdex serve --repository ~/models --port 0", "Another repository, a free port"),
        Example("clipdex serve --model vit-b-32", "A listed model, exported first if it is missing"),
    ),
    "clipdex web": (
        Example("clipdex web photos.clipdex", "At http://127.0.0.1:8080"),
        Example("clipdex web a.clipdex b.clipdex --port 0 --server none", "Two, to browse, at a free port"),
        Example("clipdex web photos.clipdex --allow-write --token-file token.txt", "For a service that adds"),
    ),
    "clipdex doctor": (
        Example("clipdex doctor gpu1:8001", "One server"),
        Example("clipdex doctor gpu1:8001,gpu2:8001 --json", "Two, compared; for programs"),
    ),
    "clipdex models": (
        Example("clipdex models", "Of the server at localhost:8001"),
        Example("clipdex models ./model_repository", "Of a repository on this machine"),
        Example("clipdex models --available", "Those that can be exported by name"),
    ),
    "clipdex export": (
        Example("clipdex export vit-b-32", "A listed model"),
        Example("clipdex export openai/clip-vit-base-patch32 --name clip", "From the hub"),
        Example(
            "clipdex export ./checkpoint -n mine --target cuda --precision fp16", "From a directory, for GPUs"
        ),
    ),
    "clipdex demo": (
        Example("clipdex demo", "Everything, on drawn pictures"),
        Example('clipdex demo --photos ~/Pictures --query "a red square"', "On pictures of your own"),
    ),
    "clipdex ann build": (
        Example("clipdex ann build photos.clipdex", "Then search with --ann"),
        Example("clipdex ann build -i photos.clipdex --kind ivf_pq --queries texts.txt", "Shorter codes"),
    ),
    "clipdex features build": (
        Example("clipdex features build photos.clipdex", "Once, and again after adding pictures"),
        Example("clipdex features build photos.clipdex --check", "Also make damaged ones again"),
    ),
    "clipdex bench server": (
        Example("clipdex bench server --concurrency 1,4,16 --plot speed.svg", "Throughput against latency"),
    ),
    "clipdex bench index": (
        Example("clipdex bench index ~/Pictures --pictures 500 --save bench.json", "What limits it"),
    ),
    "clipdex bench feed": (
        Example(
            "clipdex bench feed --rate 3500", "The cores needed for a GPU that encodes 3,500 pictures a second"
        ),
        Example("clipdex bench feed ~/Pictures --pictures 500", "The same for pictures of yours"),
    ),
    "clipdex bench search": (
        Example("clipdex bench search --index photos.clipdex", "An index of yours"),
        Example("clipdex bench search --rows 1000000 --int8", "Drawn vectors"),
    ),
}
