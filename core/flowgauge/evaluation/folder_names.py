"""What plants call their folders: the one table by which a folder is good, defective, or holds masks.

Names compare in either case, whatever separates their words, numbered or not: `i.O.`, `NG-2`, `Ground Truth`.
"""

import re
from functools import partial

# A word that says nothing of whether the parts are good: `ok_front` is good as `ok` is.
_FILLER = re.compile(r"parts?|teile?|images?|imgs?|bild|bilder|pictures?|samples?|front|back|side")


def _named(table: re.Pattern[str], folder: str) -> bool:
    words = re.findall(r"[^\W\d_]+", folder.casefold())
    meaningful = [word for word in words if not _FILLER.fullmatch(word)]
    return any(table.fullmatch("".join(some)) is not None for some in (words, meaningful))


is_good = partial(
    _named,
    re.compile(
        r"""goods? | ok | okay | io | normal | nominal | pass | passed | fine | accept | accepted | conform | conforming
        | conforme | faultless | flawless | nodefects? | defectfree | faultfree | anomalyfree | nonanomalous
        | nondefective | undamaged | gut | gutteile? | bons? | buon[oi] | buenos?""",
        re.VERBOSE,
    ),
)
is_defective = partial(
    _named,
    re.compile(
        r"""bad | ng | nok | notok | ko | nio | nogood | notgood | def | defects? | defective | defekte? | faults?
        | faulty | fail | failed | failures? | rejects? | rejected | anomaly | anomalies | anomalous | abnormal
        | unnormal | scrap | damaged | broken | nonconform | nonconforming | nonconforme | schlecht | schlechtteile?
        | ausschuss | mauvais | malo | difettoso | difetto | scarto""",
        re.VERBOSE,
    ),
)
"""Whether the name says that whatever lies there is defective; any class of defects may have another name."""

holds_masks = partial(_named, re.compile(r"groundtruths?|gt|masks?|labels?|annotations?|segmentations?"))
is_train = partial(_named, re.compile(r"train|training"))
is_test = partial(_named, re.compile(r"test|testing"))
