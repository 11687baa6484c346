"""Small studies, one changed setting at a time. Session-wide, so that Hypothesis may use them."""

import pytest

from study.contract import Data, Model, Privacy, Sites, Study, Training
from study.declaration import Declaration

NONCE = "0123456789abcdef" * 2


def study_of(*, data=None, model=None, training=None, privacy=None, sites=None, **study):
    """Two classes, three features, a logistic model, noise multiplier 3 at each site: what is given comes on top."""
    return Study(
        **({"name": "example"} | study),
        data=Data(
            **{
                "task": "classification",
                "label": "ill",
                "classes": ("no", "yes"),
                "expected_records": 40,
                "features": ("age", "height", "weight"),
            }
            | (data or {})
        ),
        model=Model(**{"kind": "logistic"} | (model or {})),
        training=Training(**{"rounds": 4} | (training or {})),
        privacy=Privacy(**{"trust": "local", "noise_multiplier": 3.0} | (privacy or {})),
        sites=Sites(**{"minimum": 3} | (sites or {})),
    )


@pytest.fixture(scope="session")
def make_study():
    return study_of


@pytest.fixture(scope="session")
def declared():
    """A declaration of a study whose noise multiplier is given (or that has none)."""

    def declare_it(study=None, *, sites=3, nonce=NONCE, roster=None, **settings):
        study = study or study_of(**settings)
        return Declaration(
            study=study, sites=sites, noise_multiplier=study.privacy.noise_multiplier, nonce=nonce, roster=roster,
        )  # fmt: skip

    return declare_it
