"""JSON schemas from definitions of custom resources, as kubeconform looks for them: `crds.py FOLDER CRD.yaml...`."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml


def schemas(definition: dict[str, Any]) -> dict[str, Any]:
    """File name -> schema, for every version of the resource."""
    spec = definition["spec"]
    kind, group = spec["names"]["kind"].lower(), spec["group"].split(".")[0]
    return {
        f"{kind}-{group}-{version['name']}.json": closed(version["schema"]["openAPIV3Schema"])
        for version in spec["versions"]
    }


def closed(schema: Any) -> Any:
    """The same schema, that refuses fields which it does not name: an API server would drop them silently."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    is_open = made.get("x-kubernetes-preserve-unknown-fields", False)
    if isinstance(made.get("properties"), dict) and made.get("type") == "object" and not is_open:
        made.setdefault("additionalProperties", False)
    return made


def main(folder: Path, definitions: list[Path]) -> None:
    for path in definitions:
        for name, schema in schemas(yaml.safe_load(path.read_text())).items():
            (folder / name).write_text(json.dumps(schema))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(each) for each in sys.argv[2:]])
