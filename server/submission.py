"""A study for a coordinator to run: its declaration and roster, put where the pinned ServerApp finds them.

`discreet coordinator run` starts a run of it, and so does `flwr run` with this study's hash in its settings; the code
that either ships is ignored.
"""

from __future__ import annotations

from privacy.errors import ProtocolError, UserError
from server.directory import CoordinatorDirectory
from server.study_directory import StudyDirectory
from study.declaration import Declaration
from study.files import write_whole
from study.guarantee import Guarantee
from study.roster import SignedRoster

__all__ = ["submit"]


def submit(
    directory: CoordinatorDirectory, declaration: Declaration, roster: SignedRoster
) -> StudyDirectory:
    """Put a study into the directory, once; its own directory there.

    Raises:
        UserError: it is for another roster, a site of it has no node here, or it is one that nobody may run.
    """
    study = declaration.study
    if study.privacy.trust == "unsafe":
        raise UserError(
            "Expected a study with privacy, found trust = unsafe", hint="simulate it instead"
        )
    Guarantee(declaration).check()
    try:
        roster.check_signed()
    except ProtocolError as error:
        raise UserError(f"The roster is not signed as it should be: {error.message}") from error
    if declaration.roster != roster.roster.hash:
        raise UserError(
            "Expected the roster that this study was declared for, found another",
            hint="declare the study again: discreet study declare",
        )
    absent = [name for name in roster.roster.numbers if name not in directory.sites()]
    if absent:
        raise UserError(
            f"Expected a node of every site of the roster, found none of {', '.join(absent)}",
            hint="discreet coordinator add DIR NAME=node.pub",
        )
    place = directory.study(declaration.hash)
    place.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_whole(place / "roster.json", roster.to_bytes())
    if not place.is_submitted:
        write_whole(place / "declaration.json", declaration.content)
    return place
