"""Code that a recipe names, package.module:NAME: where it comes from is found, held to a rule and told before any of it
runs.

It comes from the recipe's folder, the current folder or an installed package. What could fetch or load further code by
name is none: Python's own library, PyTorch and the libraries below, also under another package's name for it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import multiprocessing
import os
import re
import sys
import sysconfig
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from kdcompress.errors import UsageError, place, unknown_name

# Packages whose functions take what they run or fetch from their arguments, and those that have names of their own.
LIBRARIES = """
torch torchvision torchaudio timm kdcompress transformers diffusers huggingface_hub accelerate lightning
pytorch_lightning modelscope tensorflow tf_keras keras jax numpy scipy pandas joblib dill cloudpickle jsonpickle yaml
hydra omegaconf fsspec onnx onnxruntime openvino executorch pip setuptools pkg_resources _distutils_hack wheel distutils
IPython ipykernel pytest _pytest click dask distributed mlflow wandb ray cffi cupy numba triton sympy execnet paramiko
plumbum requests
"""
LOADERS = frozenset(LIBRARIES.split())
STANDARD = "Python's own library"
PLACES = re.compile(r"(^|/)(hf-hub|local-dir):")  # of a network of timm's, whose name has a colon too
_folders: list[Path] = []
_told: set[str] = set()


def is_own(name: str) -> bool:
    """Whether a network or a method is written as code of one's own: package.module:NAME."""
    return ":" in name and not PLACES.search(name)


def importable(folder: Path) -> None:
    """``folder``, a recipe's, is searched for code that a recipe names, after all else."""
    if (place := folder.resolve()) not in _folders:
        _folders.append(place)


def located(kind: str, name: str) -> Path | None:
    """The file of the module that ``package.module:NAME`` names, without running any of it; None: it has none. The
    current folder and the recipe's are searched last. Raises UsageError where there is none, and for what recipes may
    not name."""
    module_name, _, attribute = name.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise UsageError(f"A {kind} of your own is written package.module:NAME.", where=kind, got=name[:200])
    top = module_name.partition(".")[0]
    if top in sys.stdlib_module_names or top in sys.builtin_module_names:
        _refuse(name, top)
    for folder in ("", *map(str, _folders)):  # a console script has its own folder there, not the current one
        if folder not in sys.path:
            sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        file = _file(module_name)
    except Exception as error:  # of a finder
        raise _not_imported(name, error) from error
    _refuse(name, _library_of(file) or ("" if _is_the_users(file) else top))
    return file


def _is_the_users(file: Path | None) -> bool:
    """Whether it lies in the current or a recipe's folder, whatever its name, and is not installed there."""
    if file is None or not {"site-packages", "dist-packages"}.isdisjoint(file.parts):
        return False
    return any(file.is_relative_to(folder) for folder in (Path.cwd(), *_folders))


def imported(kind: str, name: str) -> Any:
    """The callable that ``package.module:NAME`` names, a ``kind`` (model, method); where its code is is told once.
    Raises UsageError as ``located`` does, and where the module cannot be imported or has none of that name."""
    file = located(kind, name)
    _tell(f"{kind}: {name}, code of {file or 'a module without a file'}")
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also a call of sys.exit
        raise _not_imported(name, error) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        callables = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise unknown_name(f"callable in {module_name}", attribute, callables, where=name)
    own = {module_name.partition(".")[0]} if _is_the_users(file) else set()
    for library in _libraries(found) - {"kdcompress"} - own:  # kdcompress's classes are built upon
        _refuse(name, library)
    return found


def _not_imported(name: str, error: BaseException) -> UsageError:
    return UsageError(
        f"The module {name.partition(':')[0]!r} cannot be imported.",
        where=place(error) or name,
        got=f"{type(error).__name__}: {error}",
        hint="keep it in the recipe's folder or in the one that you run from, or install its package",
    )


def _refuse(name: str, library: str) -> None:
    if library in sys.stdlib_module_names or library in sys.builtin_module_names or library == STANDARD:
        whose = STANDARD
    elif library in LOADERS:
        whose = library
    else:
        return
    raise UsageError(
        f"Recipes may not name code of {whose}: it could load any other code.",
        where=name,
        allowed="a callable of the recipe's folder, of the current folder or of an installed package of your own",
        hint="models of libraries are torchvision/NAME, timm/NAME, smp/NAME; for others write a function of your own",
    )


def _file(module_name: str) -> Path | None:
    """The module's file, found without running any of it or of the packages around it."""
    spec: ModuleSpec | None = None
    folders: Any = None
    parts = module_name.split(".")
    for length in range(1, len(parts) + 1):
        inner = ".".join(parts[:length])
        if inner in sys.modules and length == 1:
            spec = importlib.util.find_spec(inner)
        else:  # other finders are asked last: setuptools' own, asked for pip, leaves distutils broken in this process
            spec = PathFinder.find_spec(inner, folders) or (importlib.util.find_spec(inner) if length == 1 else None)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {inner!r}")
        folders = spec.submodule_search_locations
        if folders is None and length < len(parts):
            raise ModuleNotFoundError(f"{inner!r} is not a package")
    return Path(os.path.abspath(spec.origin)) if spec and spec.has_location and spec.origin else None


def _libraries(found: Any) -> set[str]:
    """The refused libraries that a callable belongs to, however it is named and wrapped."""
    while isinstance(found, functools.partial):
        found = found.func
    found = inspect.unwrap(getattr(found, "__func__", found))
    owner = found if inspect.isroutine(found) or inspect.isclass(found) else type(found)
    code = getattr(found, "__code__", None)
    names = {(getattr(owner, "__module__", None) or "").partition(".")[0]}
    if code is not None:
        names.add("os" if code.co_filename.startswith("<frozen") else _library_of(Path(code.co_filename)))
    return {name for name in names if name}


def _library_of(file: Path | None) -> str:
    """The refused library that the file belongs to, else ""."""
    if file is None:
        return ""
    path = file.resolve()
    for name in LOADERS:
        spec = sys.modules[name].__spec__ if name in sys.modules else PathFinder.find_spec(name)
        for home in (spec.submodule_search_locations or ()) if spec else ():
            if path.is_relative_to(Path(home).resolve()):
                return name
    for kind in ("stdlib", "platstdlib"):
        folder = Path(sysconfig.get_path(kind)).resolve()
        if path.is_relative_to(folder) and not {"site-packages", "dist-packages"} & set(path.relative_to(folder).parts):
            return STANDARD
    return ""


def _tell(line: str) -> None:
    if line not in _told and multiprocessing.parent_process() is None and os.environ.get("RANK", "0") == "0":
        from kdcompress.console import say  # not on a device, where there is nothing to show it

        _told.add(line)
        say(line)
