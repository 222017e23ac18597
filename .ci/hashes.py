"""Lines for constraints-hashed.txt, from what `pip install --dry-run --report FILE` would install here:

    make hashes                               what is tested, with the SHA-256 of each file, as this index serves it
    make install HASHES=constraints-hashed.txt

PyTorch's own packages are left out: indexes serve builds of the same version that differ, for CUDA or the CPU alone.
"""

import json
import re
import sys
from pathlib import Path

OF_PYTORCH = re.compile(r"torch|torchvision|triton|nvidia-.+|cuda-.+")

for item in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["install"]:
    name, version = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(), item["metadata"]["version"]
    hashes = item["download_info"].get("archive_info", {}).get("hashes", {})
    if not OF_PYTORCH.fullmatch(name) and "sha256" in hashes:  # a folder, such as this one, has none
        print(f"{name}=={version} --hash=sha256:{hashes['sha256']}")
