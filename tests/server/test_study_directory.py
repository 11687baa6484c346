"""What a coordinator keeps of a study: it ends once, one way, and can always be told from its files."""

import json
import threading

from server.study_directory import StudyDirectory


def place_of(tmp_path):
    return StudyDirectory(tmp_path)


def test_what_is_waited_for_can_be_read_until_it_is_over(tmp_path):
    place = place_of(tmp_path)
    assert place.waiting == ""
    place.wait("for north")
    assert place.waiting == "for north"
    place.wait("")
    place.wait("")
    assert place.waiting == ""


def test_a_study_that_is_given_up_has_no_release_and_forgets_its_secret(tmp_path):
    place = place_of(tmp_path)
    for name in ("release", "release.partial"):
        (place / name).mkdir()
    (place / "secret").write_bytes(b"s" * 32)
    place.wait("for north")
    place.give_up({"failed": "stopped", "hint": ""})
    assert place.outcome == {"failed": "stopped", "hint": ""}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["lock", "outcome.json"]


def test_an_end_of_its_own_is_kept(tmp_path):
    """Also one that it comes to while it is to be given up: whoever runs it finishes first."""
    place, begun, given = place_of(tmp_path), threading.Event(), []

    def give_up():
        begun.set()
        place.give_up({"failed": "stopped", "hint": ""})
        given.append(True)

    thread = threading.Thread(target=give_up)
    with place.alone():
        thread.start()
        assert begun.wait(10)
        (place / "release").mkdir()
        assert given == []
        place.conclude({"summary": {"rounds": 2}})
    thread.join(10)
    assert given == [True]
    assert place.outcome == {"summary": {"rounds": 2}}
    assert (place / "release").is_dir()


def test_lines_that_are_not_whole_yet_are_left_out(tmp_path):
    place = place_of(tmp_path)
    assert list(place.lines()) == []
    (place / "progress.jsonl").write_text(json.dumps({"round": 1}) + "\n" + '{"rou')
    assert list(place.lines()) == [{"round": 1}]


def test_one_whose_declaration_cannot_be_read_is_known_by_its_hash(tmp_path):
    place = StudyDirectory(tmp_path / ("3f" * 32))
    place.path.mkdir()
    (place / "declaration.json").write_bytes(b"{}")
    assert place.is_submitted
    assert place.title == "3f3f3f3f3f3f"
