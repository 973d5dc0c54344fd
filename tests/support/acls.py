"""The rights that docs/how-to/security.md tells an operator to grant, granted to a broker of the tests."""

from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ACLResourcePatternType, ResourcePattern, ResourceType

_PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "security.md"
_COMMAND = "$acls "
_PREFIX = "flowgauge."


def documented_acls(prefix: str) -> list[ACL]:
    """Those of the page's `$acls` commands, for topics and groups that begin with `prefix`."""
    commands = [line.strip() for line in _PAGE.read_text().splitlines() if line.strip().startswith(_COMMAND)]
    assert commands, f"{_PAGE} grants nothing"
    return [acl for command in commands for acl in _acls(command.removeprefix(_COMMAND), prefix)]


def grant(bootstrap: str, acls: list[ACL]) -> None:
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        failed = admin.create_acls(acls)["failed"]
        assert not failed, failed
    finally:
        admin.close()


def _acls(command: str, prefix: str) -> Iterator[ACL]:
    parser = ArgumentParser()
    parser.add_argument("--allow-principal", required=True)
    parser.add_argument("--operation", action="append", required=True)
    parser.add_argument("--topic", action="append", default=[])
    parser.add_argument("--group", action="append", default=[])
    parser.add_argument("--resource-pattern-type", default="literal")
    given = parser.parse_args(command.split())
    pattern = ACLResourcePatternType[given.resource_pattern_type.upper()]
    for kind, names in ((ResourceType.TOPIC, given.topic), (ResourceType.GROUP, given.group)):
        for name in names:
            assert name.startswith(_PREFIX), command
            resource = ResourcePattern(kind, prefix + name.removeprefix(_PREFIX), pattern)
            for operation in given.operation:
                yield ACL(given.allow_principal, "*", _operation(operation), ACLPermissionType.ALLOW, resource)


def _operation(name: str) -> ACLOperation:
    """`DescribeConfigs` as the tool writes it, `DESCRIBE_CONFIGS` as the library does."""
    return ACLOperation["".join(f"_{letter}" if letter.isupper() else letter for letter in name).lstrip("_").upper()]
