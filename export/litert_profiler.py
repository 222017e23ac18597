"""LiteRT's profiler. Python's bindings do not have it: it is reached through the C interface of the same package."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kdcompress.errors import KDCompressError, UsageError
from kdcompress.export.quiet import native_errors

VERSIONS = (2, 3), (3, 0)  # the functions and the record are those of these: from, and below
CPU = 1  # LiteRtHwAccelerator
OF_OPERATOR, OF_DELEGATE = (2,), (4, 8)  # types of events
FILL = 0xAB


class Memory(ctypes.Structure):
    _fields_ = [("footprint_kb", ctypes.c_int64), ("allocated", ctypes.c_size_t), ("in_use", ctypes.c_size_t)]


class Record(ctypes.Structure):
    """ProfiledEventData"""

    _fields_ = [
        ("tag", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("before", Memory),
        ("after", Memory),
        ("number", ctypes.c_uint64),
        ("more", ctypes.c_uint64),
        ("source", ctypes.c_int),
    ]


Told = tuple[str, bool, int]  # name of an operator, whether a delegate ran it, and microseconds


class Profiled:
    """A context manager that loads a .tflite file with the profiler, for the CPU."""

    def __init__(self, path: Path, threads: int):
        self._path, self._threads = path, threads
        self._owned: list[tuple[str, Any]] = []  # what is to be given back, by which function
        self._kept: list[Any] = []
        self._library: Any = None

    def __enter__(self) -> Profiled:
        told = version("ai-edge-litert")
        numbers = tuple(int(part) for part in told.split(".")[:2])
        if not VERSIONS[0] <= numbers < VERSIONS[1]:
            allowed = f"from {'.'.join(map(str, VERSIONS[0]))} on, below {VERSIONS[1][0]}"
            raise KDCompressError("This LiteRT's profiler is not known.", got=told, allowed=allowed)
        spec = find_spec("ai_edge_litert")
        assert spec is not None and spec.submodule_search_locations
        with native_errors():
            self._library = ctypes.CDLL(
                next(str(p) for p in Path(spec.submodule_search_locations[0]).glob("libLiteRt.*"))
            )
            try:
                self._load()
            except BaseException:
                self.__exit__(None, None, None)
                raise
        return self

    def _load(self) -> None:
        environment = self._made("Environment", 0, None)
        model = self._made("Model", environment, str(self._path).encode(), function="LiteRtCreateModelFromFile")
        options = self._made("Options")
        self._call("LiteRtSetOptionsHardwareAccelerators", options, CPU)
        self._option(options, "runtime_options_string", "enable_profiling = true\n")
        self._option(options, "xnnpack", f"num_threads = {self._threads}\n")
        self._model = self._made("CompiledModel", environment, model, options)
        signature = self._given("LiteRtGetModelSignature", model, ctypes.c_size_t(0))
        self._inputs, self._outputs = (self._buffers(kind, environment, signature) for kind in ("Input", "Output"))
        size = ctypes.c_size_t()
        self._call("LiteRtGetTensorBufferPackedSize", ctypes.c_void_p(self._inputs[0]), ctypes.byref(size))
        self._bytes = size.value
        self._profiler = self._given("LiteRtCompiledModelGetProfiler", self._model)

    def run(self, x: np.ndarray) -> list[Told]:
        """The operators that ran for ``x``, the file's one input, in their order.

        Raises UsageError where that is not the input's size.
        """
        if x.nbytes != self._bytes:
            raise UsageError("The file takes another input.", where=self._path, got=x.nbytes, allowed=self._bytes)
        self._call("LiteRtResetProfiler", self._profiler)
        self._call("LiteRtStartProfiler", self._profiler)
        address = self._given("LiteRtGetTensorBufferHostMemory", ctypes.c_void_p(self._inputs[0]))
        ctypes.memmove(address, np.ascontiguousarray(x).ctypes.data, x.nbytes)
        sizes = [ctypes.c_size_t(len(each)) for each in (self._inputs, self._outputs)]
        first = ctypes.c_size_t(0)
        self._call("LiteRtRunCompiledModel", self._model, first, sizes[0], self._inputs, sizes[1], self._outputs)
        return [
            (record.tag.decode(errors="replace"), record.type in OF_DELEGATE, record.elapsed_us)
            for record in self._records()
            if record.type in (*OF_OPERATOR, *OF_DELEGATE)
        ]

    def _records(self) -> Sequence[Record]:
        """Raises KDCompressError where LiteRT's are of another size."""
        count = ctypes.c_int()
        self._call("LiteRtGetNumProfilerEvents", self._profiler, ctypes.byref(count))
        if not count.value:
            return []
        memory = np.full((count.value + 1) * 4 * ctypes.sizeof(Record), FILL, np.uint8)
        self._call("LiteRtGetProfilerEvents", self._profiler, count, memory.ctypes.data_as(ctypes.c_void_p))
        written = int(np.flatnonzero(memory != FILL)[-1]) + 1
        if -(-written // count.value) != ctypes.sizeof(Record):
            got = f"{written} bytes for {count.value} events"
            raise KDCompressError("This LiteRT's profiler is not known.", got=got, allowed=ctypes.sizeof(Record))
        self._kept[:] = [memory]
        return [Record.from_buffer(memory.data, i * ctypes.sizeof(Record)) for i in range(count.value)]

    def _buffers(self, kind: str, environment: Any, signature: Any) -> Any:
        count = ctypes.c_size_t()
        self._call(f"LiteRtGetNumSignature{kind}s", signature, ctypes.byref(count))
        made = (ctypes.c_void_p * count.value)()
        for i in range(count.value):
            place = ctypes.c_size_t(i)
            tensor = self._given(f"LiteRtGetSignature{kind}TensorByIndex", signature, place)
            shape = ctypes.create_string_buffer(1024)  # LiteRtRankedTensorType, far smaller
            self._call("LiteRtGetRankedTensorType", tensor, shape)
            needs = self._given(
                f"LiteRtGetCompiledModel{kind}BufferRequirements", self._model, ctypes.c_size_t(0), place
            )
            function = "LiteRtCreateManagedTensorBufferFromRequirements"
            made[i] = self._made("TensorBuffer", environment, shape, needs, function=function).value
        return made

    def _option(self, options: Any, name: str, toml: str) -> None:
        text, keep = ctypes.create_string_buffer(toml.encode()), ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_nothing)
        self._owned.append(("", (text, keep)))  # as long as the options
        address = ctypes.cast(text, ctypes.c_void_p)
        option = self._given("LiteRtCreateOpaqueOptions", name.encode(), address, keep)
        self._call("LiteRtAddOpaqueOptions", options, option)

    def _made(self, kind: str, *arguments: Any, function: str = "") -> Any:
        made = self._given(function or f"LiteRtCreate{kind}", *arguments)
        self._owned.append((f"LiteRtDestroy{kind}", made))
        return made

    def _given(self, function: str, *arguments: Any) -> Any:
        """What a function gives through its last argument."""
        found = ctypes.c_void_p()
        self._call(function, *arguments, ctypes.byref(found))
        if not found.value:
            raise UsageError("LiteRT cannot profile this file.", where=self._path, got=f"{function}: nothing")
        return found

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            raise UsageError("LiteRT cannot profile this file.", where=self._path, got=f"{function}: status {status}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._owned:
            function, thing = self._owned.pop()
            if function:
                getattr(self._library, function)(thing)


def _nothing(_address: Any) -> None:
    return None
