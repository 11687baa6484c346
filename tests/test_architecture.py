"""The layers hold, the base install is lean, names collide with nobody, and the wheel is complete."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
DATA = {"server/report.css", "server/report.html.template"}


def run(*arguments, cwd=ROOT, **environment):
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )  # fmt: skip


def imported_by(statement):
    """Top-level modules that a fresh interpreter holds after `statement`, beyond those of the library."""
    code = (
        "import sys; before = set(sys.modules); " + statement + "; "
        "print(*sorted({each.partition('.')[0] for each in set(sys.modules) - before}))"
    )
    found = run("-c", code)
    assert found.returncode == 0, found.stderr
    own = {*sys.stdlib_module_names, *sys.builtin_module_names}
    return {each for each in found.stdout.split() if each not in own and each[:2] != "__"}


def tracked_files():
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / each for each in listed.stdout.split("\0") if each and (ROOT / each).is_file()]


def text_of(path):
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


# Layers


def test_the_import_contracts_hold(tmp_path):
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    found = run("-c", script, "--cache-dir", str(tmp_path))
    assert found.returncode == 0, found.stdout + found.stderr
    assert "0 broken" in found.stdout


def test_every_package_of_ours_is_in_the_layers_the_wheel_and_mypy():
    contract = PROJECT["tool"]["importlinter"]["contracts"][0]
    layers = {each.strip() for line in contract["layers"] for each in line.split("|")}
    assert layers == set(PACKAGES) == set(PROJECT["tool"]["importlinter"]["root_packages"])
    assert layers == set(PROJECT["tool"]["mypy"]["packages"])
    found = {each.parent.name for each in ROOT.glob("*/__init__.py")}
    assert found - {"tests", "benchmarks"} == layers


def test_the_gradient_core_imports_numpy_alone():
    assert imported_by("import gradients") - {"numpy", "gradients"} == set()


def test_numpy_alone_imports_what_the_gradient_core_does():
    """What else the line above hides: nothing that numpy did not bring."""
    assert imported_by("import gradients") - {"gradients"} == imported_by("import numpy")


def test_the_privacy_core_knows_neither_flower_nor_data_science():
    names = ", ".join(
        f"privacy.{each.stem}"
        for each in (ROOT / "privacy").glob("*.py")
        if each.stem != "__init__"
    )
    found = imported_by("import " + names)
    assert (
        found & {"flwr", "sklearn", "matplotlib", "typer", "torch", "opacus", "safetensors"}
        == set()
    )
    assert found & set(PACKAGES) == {"privacy"}


def test_the_study_layer_needs_flower_for_its_envelope_alone():
    names = ", ".join(
        f"study.{each.stem}"
        for each in (ROOT / "study").glob("*.py")
        if each.stem not in ("__init__", "envelope")
    )
    assert "flwr" not in imported_by("import " + names)


def test_the_command_answers_help_without_importing_flower():
    assert imported_by("import discreet.main") & {"flwr", "sklearn", "matplotlib", "torch"} == set()


def test_nothing_that_is_shipped_imports_the_extras_at_its_top():
    names = ", ".join(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if not path.stem.startswith("__")
    )
    found = imported_by("import " + names)
    assert found & {"torch", "opacus", "pyarrow", "hypothesis", "pytest"} == set()


# Names


def top_level_names(distribution):
    """Packages and modules that a distribution puts directly into site-packages."""
    names = set()
    for path in distribution.files or []:
        first, *rest = path.parts
        if first.endswith((".dist-info", ".egg-info", ".data")) or first in ("..", "__pycache__"):
            continue
        if rest or first.endswith(".py"):
            names.add(first.removesuffix(".py"))
    return names


def base_install():
    """Names of all distributions that the base install needs, directly or not."""
    wanted, seen = ["discreet"], set()
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in seen:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        seen.add(name)
        wanted += [
            re.match(r"[A-Za-z0-9._-]+", each)[0] for each in requires if "extra ==" not in each
        ]
    return seen


def test_no_installed_package_has_a_name_of_ours():
    clashes = {}
    for distribution in importlib.metadata.distributions():
        if distribution.name != "discreet":
            same = top_level_names(distribution) & set(PACKAGES)
            if same:
                clashes[distribution.name] = same
    assert clashes == {}


def test_what_opacus_ships_under_our_directories_names_is_never_imported_by_us():
    """`benchmarks` and `examples` are scripts and files here, not packages."""
    for name in ("benchmarks", "examples"):
        assert name not in PACKAGES
        assert not (ROOT / name / "__init__.py").exists()
        for path in tracked_files():
            if path.suffix == ".py":
                assert not re.search(rf"^\s*(from|import) {name}\b", text_of(path), re.MULTILINE), (
                    path
                )


def test_the_base_install_is_without_torch_and_pyarrow():
    found = base_install()
    assert {"flwr", "numpy", "dp-accounting", "scikit-learn"} <= found
    assert found & {"torch", "opacus", "pyarrow", "pandas", "ray", "tensorflow", "jax"} == set()


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built from the sources as git knows them."""
    out = tmp_path_factory.mktemp("wheel")
    built = run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT))
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_the_packages_with_their_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {each.partition("/")[0] for each in names if ".dist-info/" not in each} == set(PACKAGES)
    expected = {
        each.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for each in (ROOT / package).rglob("*.py")
    }
    assert {each for each in names if each.endswith(".py")} == expected
    assert names >= DATA
    assert {f"{each}/py.typed" for each in PACKAGES} <= names
    assert not [each for each in names if "__pycache__" in each or each.endswith(".pyc")]


def test_the_wheel_states_its_license_and_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {
            each.rpartition("/")[2]: each for each in archive.namelist() if ".dist-info/" in each
        }
        assert b"Apache License" in archive.read(names["LICENSE"])
        assert b"discreet = discreet.__main__:main" in archive.read(names["entry_points.txt"])
        metadata = archive.read(names["METADATA"]).decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert metadata.partition("\n\n")[2].strip(), "README.md is the description"


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    done = run(
        "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check",
        "--target", str(target), str(wheel),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


def test_the_installed_wheel_runs_from_another_directory(installed, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    code = "import discreet, server; print(discreet.__file__, server.__file__)"
    found = run("-c", code, cwd=tmp_path / "elsewhere", PYTHONPATH=str(installed))
    assert all(each.startswith(str(installed)) for each in found.stdout.split()), found.stdout
    shown = run(
        "-m", "discreet", "--version", cwd=tmp_path / "elsewhere", PYTHONPATH=str(installed)
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == f"discreet {PROJECT['project']['version']}\n"


def test_the_installed_wheel_finds_the_frame_of_its_report(installed, tmp_path):
    names = sorted(each.removeprefix("server/") for each in DATA)
    code = (
        "import server; from importlib import resources; "
        f"print(*(len(resources.files(server).joinpath(each).read_text()) for each in {names}))"
    )
    found = run("-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert found.returncode == 0, found.stderr
    assert all(int(each) > 100 for each in found.stdout.split())


def test_the_source_distribution_holds_what_tests_need(tmp_path):
    built = run("-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT))
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {each.partition("/")[2] for each in archive.getnames()}
    assert {
        "pyproject.toml",
        "Makefile",
        "README.md",
        "LICENSE",
        "tests/test_architecture.py",
    } <= names
    assert {f"examples/{each.name}" for each in (ROOT / "examples").glob("*.toml")} <= names
    assert not [each for each in names if "__pycache__" in each or "_cache/" in each]


# The repository

UNFINISHED = re.compile("TO" + "DO|FIX" + "ME")
PLACES = re.compile(r"(?<![\w.])/(?:wo" + r"rk|ro" + r"ot|home)/\w+")


def test_no_tracked_file_says_that_it_is_unfinished():
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_files()
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if UNFINISHED.search(line)
    ]
    assert found == []


def test_no_tracked_file_names_a_place_on_somebodys_machine():
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_files()
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if PLACES.search(line)
    ]
    assert found == []


def test_no_tracked_file_is_something_that_a_tool_made():
    made = ("__pycache__", "_cache", ".egg-info", ".hypothesis", ".venv", ".partial")
    assert [
        each
        for each in tracked_files()
        if any(part in str(each.relative_to(ROOT)) for part in made)
    ] == []


def test_every_package_of_ours_is_typed():
    assert [each for each in PACKAGES if not (ROOT / each / "py.typed").is_file()] == []
