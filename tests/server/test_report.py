"""The report opens offline, runs nothing, lets no text become markup, and says what was seen."""

import re
from html.parser import HTMLParser

import pytest

from server.plots import draw_plots
from server.report import FILES, render_report
from study.contract import Data, Model, Privacy, Study, Training
from study.rules import Rule

DATA = {
    "label": "diagnosis",
    "classes": ("benign", "malignant"),
    "features": ("radius", "area"),
}
TRUSTS = ["aggregate", "local", "server", "unsafe"]
VOID = {"meta", "br", "img", "link", "input", "hr"}
HOSTILE = "</title></style><script>alert(1)</script><img src=//evil onerror=alert(1)>\"'&amp;${x}$y"


def study(trust="local", **data):
    return Study(
        name="diagnosis",
        data=Data(
            task="classification",
            expected_records=426,
            **DATA | data,
        ),
        model=Model(kind="logistic"),
        training=Training(rounds=100),
        privacy=Privacy(trust=trust, epsilon=None if trust == "unsafe" else 3.0),
    )  # fmt: skip


def summary(trust="local", **other):
    return {
        "study": "diagnosis",
        "study_hash": "ab" * 32,
        "purpose": "Tell malignant from benign",
        "trust": trust,
        "masked": False,
        "epsilon": None if trust == "unsafe" else 2.9997,
        "epsilon_against_server": {"local": 2.9997, "aggregate": 5.6546}.get(trust),
        "delta": None if trust == "unsafe" else 1e-5,
        "noise_multiplier": None if trust == "unsafe" else 14.8,
        "rounds": 100,
        "rounds_declared": 100,
        "rounds_abandoned": 0,
        "sites": 5,
        "records": 569,
        "seconds": 8.4,
        "model": "logistic",
        "metrics": {"accuracy": 0.958, "precision": 0.9, "recall": 0.9, "f1": 0.9},
        "metrics_on": "pooled test rows (simulation)",
        "parameters": {"weights": [[0.25], [-1.5]], "bias": [0.125]},
        "simulation": True,
    } | other


def privacy(**other):
    return {
        "unit": "record",
        "relation": "add or remove one unit at one site",
        "mu": 0.7186,
        "mechanism": "dithered rounding and discrete Gaussian shares of noise",
        "sampling_rate": 1.0,
        "clipping": "flat",
        "clipping_norm": 1.0,
        "colluding": 1,
        "dropouts": 1,
        "shares": 3,
        "queries": [
            {
                "function": "gradient",
                "count": 102,
                "noise_multiplier": 14.8,
                "sampling_rate": 1.0,
                "dimension": 32,
                "share_deviation": 4096.0,
                "scale": 475.7,
            }
        ],
        "accountant": "dp-accounting 0.6.0 PLD, add/remove",
        "covered": ["Everything that left a site."],
        "not_covered": ["Which sites took part."],
    } | other


def history(rounds=20):
    return [
        {
            "query": number,
            "function": "gradient",
            "round": number,
            "survivors": 4,
            "missing": ["hospital-2"] if number == 3 else [],
            "abandoned": False,
            "loss": 1 / number,
            "epsilon": 0.1 * number,
            "metrics": {"accuracy": 0.9, "f1": 0.8},
            "seconds": 0.1,
        }
        for number in range(1, rounds + 1)
    ]


class Page(HTMLParser):
    """Reads a page strictly: what is opened is closed, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.data = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *each) for each in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *each) for each in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.data.append(data)

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.data))

    def all(self, name):
        return [value for _, key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def plots(tmp_path_factory):
    """The plots of one run, drawn once: drawing is what takes time."""
    return draw_plots(history(), summary(), tmp_path_factory.mktemp("plots"))


def rendered(plots, trust="local", *, about=None, guarantee=None, lines=None, contract=None):
    return render_report(
        study=contract or study(trust),
        summary=summary(trust) if about is None else about,
        privacy=privacy() if guarantee is None else guarantee,
        history=history() if lines is None else lines,
        plots=plots,
    )


@pytest.mark.parametrize("trust", TRUSTS)
def test_every_level_of_trust_gives_a_well_formed_page(plots, trust):
    page = Page(rendered(plots, trust))
    assert page.tags[0] == "html"
    assert page.all("lang") == ["en"]
    assert "What the server could see" in page.words
    assert "None" not in page.words


@pytest.mark.parametrize("trust", TRUSTS)
def test_the_page_loads_nothing_and_runs_nothing(plots, trust):
    text = rendered(plots, trust)
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "embed", "img", "base"} & set(page.tags)
    assert page.all("src") == page.all("srcset") == page.all("href") == []
    assert all(value.startswith("#") for value in page.all("xlink:href"))
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]
    assert "://" not in text
    assert "@import" not in text
    assert all(each.startswith("#") for each in re.findall(r"url\(([^)]*)\)", text))
    assert "default-src 'none'" in text


def test_equal_runs_give_equal_bytes(tmp_path):
    first, second = (draw_plots(history(), summary(), tmp_path / each) for each in "ab")
    assert rendered(first) == rendered(second)


def test_identifiers_are_unique_and_what_is_referred_to_exists(plots):
    text = rendered(plots)
    page = Page(text)
    names = page.all("id")
    referred = [each[1:] for each in page.all("xlink:href")] + re.findall(r"url\(#([^)]*)\)", text)
    assert len(names) == len(set(names))
    assert set(referred + page.all("aria-labelledby")) <= set(names)


def test_people_who_do_not_see_the_page_can_read_it(plots):
    page = Page(rendered(plots))
    assert page.tags.count("svg") == page.tags.count("figure") == 4
    assert len([each for each in page.all("aria-label") if each.startswith("Plot of")]) == 4
    assert page.all("role").count("img") == 4
    assert page.tags.count("caption") == page.tags.count("table")
    assert set(page.all("scope")) == {"row", "col"}
    assert page.tags.count("h1") == 1


def test_hostile_text_is_shown_and_never_becomes_markup(tmp_path):
    lines = history()
    lines[4] |= {"missing": [HOSTILE]}
    about = summary(
        study=HOSTILE, purpose=HOSTILE, study_hash=HOSTILE, model=HOSTILE, metrics_on=HOSTILE,
        metrics={HOSTILE: 1.0}, parameters={HOSTILE: [1.0]}, refusals={HOSTILE: {HOSTILE: 2}},
    )  # fmt: skip
    guarantee = privacy(
        unit=HOSTILE, relation=HOSTILE, mechanism=HOSTILE, accountant=HOSTILE, clipping=HOSTILE,
        covered=[HOSTILE], not_covered=[HOSTILE], queries=[{"function": HOSTILE, "count": 1}],
    )  # fmt: skip
    contract = study(label=HOSTILE, classes=("ok", HOSTILE), features=(HOSTILE + "!", "area"))
    plots = draw_plots(lines, about, tmp_path)
    text = rendered(plots, about=about, guarantee=guarantee, lines=lines, contract=contract)
    page = Page(text)
    assert not {"script", "img"} & set(page.tags)
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]
    assert page.tags.count("style") == page.tags.count("title") == 1
    assert page.words.count(HOSTILE) >= 15


def test_a_hostile_level_of_trust_cannot_leave_its_attribute(plots):
    page = Page(rendered(plots, about=summary(trust='x" onload="alert(1)')))
    assert not [key for _, key, _ in page.attributes if key.startswith("on")]


def test_unsafe_has_a_warning_and_others_have_none(plots):
    assert "⚠ No privacy" in Page(rendered(plots, "unsafe")).words
    for trust in ("local", "aggregate", "server"):
        assert "⚠" not in rendered(plots, trust)


@pytest.mark.parametrize(
    ("trust", "box", "verdict"),
    [
        ("local", "seen good", "The same bound holds against the server: ε = 3.00."),
        ("aggregate", "seen care", "A weaker bound holds against the server: ε = 5.66."),
        ("server", "seen bad", "No bound: the server sees each site's sum."),
        ("unsafe", "seen bad", "No bound: the server sees each site's sum."),
    ],
)
def test_the_box_says_what_the_server_could_see(plots, trust, box, verdict):
    page = Page(rendered(plots, trust))
    assert box in page.all("class")
    assert verdict in page.words.replace("\N{NO-BREAK SPACE}", " ")


def test_masked_sums_are_said_to_be_masked(plots):
    about = summary("aggregate", masked=True, epsilon_against_server=2.9997)
    page = Page(rendered(plots, about=about))
    assert "seen good" in page.all("class")
    assert "received only the sum over the sites" in page.words


def test_the_figures_of_the_result_are_there_with_their_caveat(plots):
    words = Page(rendered(plots)).words
    for shown in ("Privacy budget ε 3.00", "Accuracy 95.8 %", "guarantee does not cover them"):
        assert shown in words


def test_figures_are_metrics_that_the_page_can_explain(plots):
    metrics = {"accuracy": 0.9, "loss": 0.3913}
    assert "0.3913" not in Page(rendered(plots, about=summary(metrics=metrics))).words
    assert "0.3913" in Page(rendered(plots, about=summary(metrics={"loss": 0.3913}))).words


def test_missing_values_never_crash(tmp_path):
    nothing = dict.fromkeys(summary(), None)
    plots = draw_plots([], nothing, tmp_path)
    text = rendered(plots, about=nothing, guarantee={}, lines=[], contract=study())
    assert "No metrics were computed." in Page(text).words
    assert "None" not in Page(text).words
    partial = summary(epsilon=None, epsilon_against_server=None, metrics=None, parameters=None)
    assert "no bound" in Page(rendered(plots, about=partial)).words


def test_early_stopping_earns_nothing_back(plots):
    words = Page(rendered(plots, about=summary(rounds=60))).words
    assert "Here 60 of 100 rounds ran: ε is still that of all of them." in words


def test_who_was_missing_is_named_with_the_reason_that_is_known(plots):
    words = Page(rendered(plots)).words
    assert re.search(r"hospital-2\s+1\s+no answer in time", words)
    about = summary(refusals={"hospital-2": {"policy": 1}})
    assert re.search(r"hospital-2\s+1\s+policy", Page(rendered(plots, about=about)).words)
    assert "Every site answered" in Page(rendered(plots, lines=history(2))).words


def test_every_rule_of_a_policy_that_a_study_breaks_is_named(plots):
    why = "the site's policy does not allow this study: " + ", ".join(
        each.explanation for each in Rule
    )
    words = Page(rendered(plots, about=summary(refusals={"hospital-2": {why: 1}}))).words
    assert why in words


def test_parameters_are_named_like_their_features(plots):
    assert re.search(r"radius\s+0.25\s+area\s+-1.5", Page(rendered(plots)).words)
    assert "Parameters" not in Page(rendered(plots, about=summary(parameters=None))).words


@pytest.mark.parametrize("value", [0.5, [0.5], [[0.5, 1.0]], [[[0.5], [1.0]]], [], [[]]])
def test_parameters_of_any_shape_are_shown(plots, value):
    assert Page(rendered(plots, about=summary(parameters={"w": value})))


def test_every_file_of_the_release_is_explained(plots):
    words = Page(rendered(plots)).words
    assert all(name in words for name in FILES)


def test_a_report_without_plots_says_so():
    assert "There are none." in rendered([])
