"""How long a bucket keeps images and heatmaps: lifecycle rules, which the service itself carries out."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from xml.etree import ElementTree

from minio.commonconfig import ENABLED, AndOperator, Filter, Tags
from minio.error import S3Error
from minio.lifecycleconfig import (
    AbortIncompleteMultipartUpload,
    Expiration,
    LifecycleConfig,
    NoncurrentVersionExpiration,
    Rule,
)

from flowgauge.domain.errors import Unavailable, UserError
from flowgauge.domain.messages import Decision
from flowgauge.s3.bucket import Bucket
from flowgauge.s3.settings import S3Settings

TAG = "decision"

_OURS = "flowgauge-"
_PREFIXES = ("images", "heatmaps")
_NO_RULES = "NoSuchLifecycleConfiguration"
_NO_SUCH_ACTION = frozenset({"InvalidArgument", "MalformedXML"})

T = TypeVar("T")
Days = Mapping[Decision, int | None]
"""Whole days since an object was stored; None: for ever."""


class Lifecycle:
    """The rules of one bucket. Its methods raise `Unavailable`, and `UserError` where the service has no such rules.

    Ours match the tag that scoring puts beside an image and its heatmap, so snapshots, the archive, labelled images
    and whatever carries no tag are never theirs. Rules with other ids stay as they are, to the letter.
    """

    def __init__(self, settings: S3Settings, bucket: str) -> None:
        self._bucket = Bucket(settings, bucket)

    def days(self) -> dict[Decision, int | None]:
        found = {rule.findtext("ID", ""): rule.findtext("Expiration/Days", "") for rule in self._rules()}
        kept = {decision: found.get(_id(_PREFIXES[0], decision)) for decision in Decision}
        return {decision: int(days) if days else None for decision, days in kept.items()}

    def others(self) -> list[str]:
        """The ids of rules that are not ours; a rule without one counts as well."""
        return [rule.findtext("ID", "") or "(no id)" for rule in self._rules() if not _is_ours(rule)]

    def set(self, days: Days) -> None:
        """Replace our rules. Unfinished uploads go after a day, where the service has a rule for that."""
        others = [rule for rule in self._rules() if not _is_ours(rule)]
        aborting = Rule(
            status=ENABLED,
            rule_id=f"{_OURS}unfinished",
            rule_filter=Filter(prefix=""),
            abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(days_after_initiation=1),
        )
        expiring = []
        for decision, kept in days.items():
            tags = Tags(for_object=True)
            tags[TAG] = decision.value
            expiring += [
                Rule(
                    status=ENABLED,
                    rule_id=_id(prefix, decision),
                    rule_filter=Filter(and_operator=AndOperator(prefix=f"{prefix}/", tags=tags)),
                    expiration=Expiration(days=kept),
                    noncurrent_version_expiration=NoncurrentVersionExpiration(noncurrent_days=1),
                )
                for prefix in _PREFIXES
                if kept
            ]
        try:
            self._store([*expiring, aborting], others)
        except Unavailable as error:
            if _code(error) not in _NO_SUCH_ACTION:
                raise
            self._store(expiring, others)

    def close(self) -> None:
        self._bucket.close()

    def _rules(self) -> list[ElementTree.Element]:
        """As the service wrote them: the library drops what it does not know, such as a condition on sizes."""
        client, name = self._bucket.client, self._bucket.name
        try:
            answer = self._ask(lambda: client._execute("GET", name, query_params={"lifecycle": ""}))
        except Unavailable as error:
            if _code(error) == _NO_RULES:
                return []
            raise
        document = ElementTree.fromstring(answer.data)
        for element in document.iter():
            # `set` writes them without the namespace, in which `findtext` would not find them either.
            element.tag = element.tag.rpartition("}")[2]
        return document.findall("Rule")

    def _store(self, ours: Sequence[Rule], others: Sequence[ElementTree.Element]) -> None:
        client, name = self._bucket.client, self._bucket.name
        if ours or others:
            self._ask(lambda: client.set_bucket_lifecycle(name, _Merged(ours, others)))
        else:
            self._ask(lambda: client.delete_bucket_lifecycle(name))

    def _ask(self, attempt: Callable[[], T]) -> T:
        try:
            return self._bucket.ask(attempt)
        except Unavailable as error:
            if _code(error) == "NotImplemented":
                cause = f"{self._bucket.address} has no lifecycle rules."
                remedy = "Use a service that has them, or delete images with a job of your own."
                raise UserError(cause, remedy) from error
            raise


class _Merged(LifecycleConfig):
    def __init__(self, ours: Sequence[Rule], others: Sequence[ElementTree.Element]) -> None:
        super().__init__(list(ours))
        self._others = others

    def toxml(self, element: ElementTree.Element | None) -> ElementTree.Element:
        made = super().toxml(element)
        made.extend(self._others)
        return made


def _id(prefix: str, decision: Decision) -> str:
    return f"{_OURS}{prefix}-{decision.value}"


def _is_ours(rule: ElementTree.Element) -> bool:
    return rule.findtext("ID", "").startswith(_OURS)


def _code(error: Unavailable) -> str | None:
    return error.__cause__.code if isinstance(error.__cause__, S3Error) else None
