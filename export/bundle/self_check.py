"""Whether this folder is whole and its model gives here what it gave where it was made: python3 self_check.py

Ends with 0 where all is well, 1 where something is wrong, 3 where the model's runtime is not installed.
"""

import sys

if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # this folder: nothing in it may stand in for what is installed
sys.dont_write_bytecode = True  # which would be a file that is not in the list

import hashlib  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
from pathlib import Path  # noqa: E402

FOLDER = Path(__file__).resolve().parent
LIST = ("SHA256SUMS", "SHA256SUMS.sig")


def damaged():
    """What SHA256SUMS says of this folder that is not so, and what is here besides."""
    sums = FOLDER / LIST[0]
    if not sums.is_file():
        return [f"missing: {LIST[0]}"]
    lines = [line.partition("  ") for line in sums.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
    listed = {name: expected for expected, _, name in lines}
    paths = [path for path in FOLDER.rglob("*") if path.is_symlink() or not path.is_dir()]
    there = {path.relative_to(FOLDER).as_posix(): path for path in paths}
    found = []
    for name, expected in listed.items():
        if name not in there or there[name].is_symlink() or not there[name].is_file():
            found.append(f"missing: {name}")
        elif hashlib.sha256(there[name].read_bytes()).hexdigest() != expected:
            found.append(f"damaged: {name}")
    return found + [f"not in the list: {name}" for name in sorted(there) if name not in listed and name not in LIST]


def load(name):
    """NAME.py of this folder, whatever is installed under that name."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    problems = damaged()
    if problems:
        print("\n".join(problems))
        print("FAILED: the folder is not what was shipped; unpack it again into an empty folder")
        return 1
    try:
        model = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))
        install, made_on = model["runtime"]["install"], model["made_on"]
        made = f"{model['runtime']['name']} {model['runtime']['version']} on {made_on}"
    except Exception as error:
        print(f"FAILED: model.json is damaged: {type(error).__name__}: {error}")
        return 1
    try:
        *_, program = [load(name) for name in model["programs"]]  # each after those that it imports
        problem = program.wrong(FOLDER)
    except ImportError as error:
        print(f"{error}\nNOT RUN: the files are whole; the model needs: {install}")
        return 3
    except Exception as error:  # runtimes raise what they like
        problem = f"the model cannot be loaded or run: {type(error).__name__}: {error}"
    if problem:
        print(f"FAILED on {platform.machine()}: {problem}\n  made with {made}")
        return 1
    print(f"OK: {model['file']} is whole and runs as it should")
    return 0


if __name__ == "__main__":
    sys.exit(main())
