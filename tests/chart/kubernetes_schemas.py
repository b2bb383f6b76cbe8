"""Checks manifests against Kubernetes' own schemas: `python kubernetes_schemas.py VERSION[,VERSION] FILE…`.

Runs in the chart's environment, once for all files, because the schemas take longer to find than to apply. Prints one
line an error; kinds that Kubernetes does not know are printed as `unknown KIND`.
"""

import sys
import warnings

import kubernetes_validate
import yaml


def main(versions: list[str], paths: list[str]) -> None:
    """Print what is wrong."""
    warnings.simplefilter("ignore")
    for path in paths:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            manifests = [found for found in yaml.safe_load_all(file) if found]
        for manifest in manifests:
            for version in versions:
                what = f"{path} {manifest['kind']}/{manifest['metadata']['name']} {version}"
                try:
                    kubernetes_validate.validate(manifest, version, strict=True)
                except kubernetes_validate.SchemaNotFoundError:
                    sys.stdout.write(f"unknown {manifest['kind']}" + "\n")
                except kubernetes_validate.ValidationError as error:
                    sys.stdout.write(f"{what}: {str(error.message).splitlines()[0]}" + "\n")


if __name__ == "__main__":
    main(sys.argv[1].split(","), sys.argv[2:])
