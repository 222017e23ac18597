"""What a command was given: a folder of photos or a recipe. Nothing heavy is imported."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence
from pathlib import Path

from kdcompress.console import say
from kdcompress.errors import UsageError
from kdcompress.pipelines.catalogue import shipped_recipes

BOTH = "a folder of images, a name of `kdcompress list recipes`, or a recipe's file (.yaml)"
RECIPES = (".yaml", ".yml")
LAID_OUT = "photos/cat/1.jpg, photos/dog/2.jpg"
OTHER = {  # by the end of its name: what a file is, and what to give in its place
    ".zip .tar .gz .tgz .bz2 .xz .zst .7z .rar": ("an archive", "unpack it, and give the folder that it makes"),
    ".csv .tsv .json .xml .txt .xls .xlsx": (
        "a table or a text",
        "give the folder of the images: {laid_out}; or that of labels.csv",
    ),
    ".onnx .ort .tflite .pte .mnn .param .mlpackage .engine": (
        "a model",
        "`kdcompress inspect {name}`, or `kdcompress evaluate {name} --data SOURCE`",
    ),
    ".pt .pth .ckpt .safetensors .bin": ("a file of weights", "name it in a recipe, as teacher.weights"),
}


def is_photos(name: str, any_file: bool = True) -> bool:
    """Whether the argument is a folder of photos, and no recipe. Raises UsageError for what is neither: a recipe's file
    ends with .yaml, unless it may be ``any_file``."""
    path, shipped = Path(name), shipped_recipes()
    if not name.strip():  # as of a shell's variable that is not set
        raise UsageError("The argument is empty.", allowed=BOTH, hint=". is the current folder")
    try:
        folder, file = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:  # such as a name longer than a system takes
        got = error.strerror if isinstance(error, OSError) else error
        raise UsageError("The name cannot be looked up.", where=name[:80], got=got) from error
    if folder and name in shipped:
        say(f"{name} is a folder here, and a recipe of kdcompress: the recipe is meant. The folder is ./{name}")
    if name in shipped or path.suffix in RECIPES and not folder:
        return False
    if folder:
        return True
    if file and (found := other_file(path)):
        raise found
    if file and any_file:
        return False
    near = difflib.get_close_matches(name, shipped, n=1)
    what = (
        f"{name[:80]!r} is a file, and no recipe." if file else f"There is no recipe and no folder named {name[:80]!r}."
    )
    raise UsageError(what, allowed=BOTH, hint=f"did you mean {near[0]!r}?" if near else None)


def other_file(path: Path) -> UsageError | None:
    """The error for a file that is known, by its name, to be no recipe."""
    from kdcompress.data.image import SUFFIXES

    what, hint = None, f"give the folder with a folder of images for each class: {LAID_OUT}"
    if path.suffix.lower() in SUFFIXES:
        what = "one image"
    for ends, (kind, step) in OTHER.items():
        if path.suffix.lower() in ends.split():
            what, hint = kind, step.format(name=shlex.quote(str(path)), laid_out=LAID_OUT)
    return (
        UsageError(f"This is {what}, and no folder of images.", where=path, allowed=BOTH, hint=hint) if what else None
    )


def refuse_options(use: str, name: str, minutes: float | None, targets: Sequence[str], force: bool = False) -> None:
    """Raises UsageError where what is for photos was given with a recipe."""
    given = ["--minutes"] * bool(minutes) + ["--target"] * bool(targets) + ["--force"] * force
    if given:
        hint = "a recipe says itself how long it trains, and what it builds: train.epochs, export.targets"
        what = f"{', '.join(given)} goes with a folder of photos, and {name[:80]} is none."
        raise UsageError(what, where=use, hint=hint)
