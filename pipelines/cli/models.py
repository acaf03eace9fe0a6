"""`vimctl encode`, `reconstruct`, `export`, `import` and `tables`: a user's own pictures, models and tables."""

from __future__ import annotations

from argparse import Namespace

from pipelines.cli import common


def add_commands(subparsers: common.Subparsers) -> None:
    """Add the commands of this module."""
    encoding = common.subcommand(
        subparsers, "encode", encode, "print the codes of pictures, or write them as a code table",
        ("encode cat.jpg --tokenizer quantize/81d0", "one JSON line a picture"),
        ("encode *.png --tokenizer my-tokenizer --out codes.parquet", "a code table"),
    )  # fmt: skip
    reconstructing = common.subcommand(
        subparsers, "reconstruct", reconstruct, "send pictures through a tokenizer and back, as PNG",
        ("reconstruct cat.jpg --tokenizer models:/vim-digits-tokenizer/1 --out again", "again/cat.png"),
        ("reconstruct *.jpg --tokenizer quantize --out again --side-by-side", "each beside the original"),
    )  # fmt: skip
    for parser in (encoding, reconstructing):
        parser.add_argument("images", nargs="+", metavar="IMG", help="pictures of any size, paths or URIs")
        about = f"an exported tokenizer's folder, or a quantize artifact: {common.ARTIFACT}"
        parser.add_argument("--tokenizer", required=True, help=about)
        common.add_root(parser)
        parser.add_argument(
            "--device", default="cpu", choices=("cpu", "cuda"), help="where the model runs (default: %(default)s)"
        )
    encoding.add_argument("--out", default="", help="Parquet file for a code table; without it one JSON line a picture")
    reconstructing.add_argument("--out", required=True, help="folder for the PNG files")
    reconstructing.add_argument(
        "--side-by-side", action="store_true", help="each picture on the left of its reconstruction"
    )
    exporting = common.subcommand(
        subparsers, "export", export, "write a tokenizer or prior with config and model card",
        ("export quantize --preset digits --out my-tokenizer", "weights, config.json and README.md"),
        ("export prior/3fa2 --out my-prior --license CC0-1.0", "with a licence in the card"),
    )  # fmt: skip
    exporting.add_argument("artifact", metavar="ARTIFACT", help=f"of quantize or prior: {common.ARTIFACT}")
    common.add_root(exporting)
    exporting.add_argument("--out", required=True, help="folder to write to, path or URI")
    exporting.add_argument("--license", default="", help="what the card says of the weights' licence")
    importing = common.subcommand(
        subparsers, "import", import_checkpoint, "make a tokenizer of an enhancing-transformers checkpoint",
        ("import imagenet_vitvq_base.ckpt --out theirs", "an exported tokenizer, for `vimctl encode`"),
        ("import last.ckpt --out theirs --head-dim 32", "of a model with narrower attention heads"),
    )  # fmt: skip
    importing.add_argument("checkpoint", help="stage-1 checkpoint file, path or URI")
    importing.add_argument("--out", required=True, help="folder to write to, path or URI")
    importing.add_argument(
        "--head-dim", type=common.COUNT, default=0, help="width of an attention head (default: theirs, 64)"
    )
    tables = common.group(
        subparsers, "tables", "write image tables for other tools, or read theirs",
        ("tables export sample/5c1e samples.npz", "as guided-diffusion's tools read them"),
        ("tables import samples.npz imported", "an image table in Parquet"),
    )  # fmt: skip
    exporting = common.subcommand(
        tables, "export", export_table, "write an image table as one .npz (arr_0) or as a folder of PNG",
        ("tables export sample --preset digits samples.npz", "all images in one array"),
        ("tables export select/7b90 pngs --split accepted-0.25", "one split as PNG files"),
    )  # fmt: skip
    exporting.add_argument("source", help=f"a .parquet file, or an artifact: {common.ARTIFACT}")
    exporting.add_argument("target", help="a new file that ends in .npz, or a new folder")
    common.add_root(exporting)
    exporting.add_argument("--split", default="", help="only images of this split, such as test or accepted-0.25")
    importing = common.subcommand(
        tables, "import", import_table, "read an .npz with arr_0 or a folder of pictures as an image table",
        ("tables import samples.npz imported", "images of guided-diffusion's tools, without classes"),
        ("tables import folder imported --classes cat,dog", "a folder a class, labels in this order"),
    )  # fmt: skip
    importing.add_argument("source", help="the .npz file or the folder")
    importing.add_argument("target", help="the folder for the table's .parquet files")
    importing.add_argument(
        "--classes", default="", help="names of class folders in the order of their labels, with commas between"
    )
    for parser in (encoding, reconstructing, importing):
        parser.add_argument(
            "--max-pixels", type=int, default=100_000_000, metavar="N",
            help="refuse larger pictures, as ingest.max_pixels does (default: %(default)s)",
        )  # fmt: skip


def encode(arguments: Namespace) -> int:
    """`vimctl encode`: codes of the user's own pictures."""
    from components.exchange import user_images

    return common.print_lines(
        user_images.encode_images(
            arguments.images, _tokenizer(arguments), arguments.out, arguments.device, arguments.max_pixels
        )
    )


def reconstruct(arguments: Namespace) -> int:
    """`vimctl reconstruct`: the user's pictures, encoded and decoded."""
    from components.exchange import user_images

    return common.print_lines(
        user_images.reconstruct_images(
            arguments.images,
            _tokenizer(arguments),
            arguments.out,
            arguments.side_by_side,
            arguments.device,
            arguments.max_pixels,
        )
    )


def _tokenizer(arguments: Namespace) -> str:
    from components.artifacts import resolve

    return resolve.model_folder(arguments.tokenizer, "quantize", common.artifact_config(arguments))


def export(arguments: Namespace) -> int:
    """`vimctl export`: a tokenizer or prior as weights, config and model card."""
    from components.exchange import export as exchange

    artifact = common.resolve(arguments.artifact, arguments, *exchange.KINDS)
    return common.print_lines(exchange.export(artifact.folder, arguments.out, arguments.license))


def import_checkpoint(arguments: Namespace) -> int:
    """`vimctl import`: a checkpoint of enhancing-transformers as an exported tokenizer."""
    from components.exchange import user_images

    return common.print_lines([user_images.import_tokenizer(arguments.checkpoint, arguments.out, arguments.head_dim)])


def export_table(arguments: Namespace) -> int:
    """`vimctl tables export`: an image table as one .npz or a folder of PNG."""
    from components.exchange import tables

    source = arguments.source
    folder = source if source.endswith(".parquet") else common.resolve(source, arguments).folder
    count = tables.export_table(tables.table_files(folder, arguments.split), arguments.target)
    return common.print_lines([f"{count} images in {arguments.target}"])


def import_table(arguments: Namespace) -> int:
    """`vimctl tables import`: an .npz or a folder of pictures as an image table."""
    from components.exchange import tables

    classes = arguments.classes.split(",")
    return common.print_lines(tables.import_table(arguments.source, arguments.target, classes, arguments.max_pixels))
