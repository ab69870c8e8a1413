"""Strict JSON names what is wrong and where; files appear whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from samunet.core.codec import atomic_path, decode, encode, parse_json, read_json, write_json, write_text
from samunet.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Wheel:
    radius_mm: float
    spokes: int = 32


@dataclass(frozen=True, kw_only=True)
class Bicycle:
    name: str
    wheels: tuple[Wheel, ...]
    size: tuple[int, int, float]
    owner: str | None = None
    sold: bool = False
    gears: dict[str, tuple[int, ...]] = field(default_factory=dict)
    notes: Any = None


WHOLE = {
    "name": "a",
    "wheels": [{"radius_mm": 311, "spokes": 28}, {"radius_mm": 311.5}],
    "size": [1, 2, 3],
    "owner": None,
    "sold": True,
    "gears": {"front": [34, 50]},
    "notes": {"free": [1, "x"]},
}


def test_a_dataclass_comes_back_from_its_json():
    made = decode(Bicycle, WHOLE, "b")
    assert made.wheels == (Wheel(radius_mm=311.0, spokes=28), Wheel(radius_mm=311.5, spokes=32))
    assert made.size == (1, 2, 3.0) and isinstance(made.size[2], float) and isinstance(made.wheels[0].radius_mm, float)
    assert (
        made.gears == {"front": (34, 50)}
        and made.owner is None
        and made.sold is True
        and made.notes == {"free": [1, "x"]}
    )
    assert decode(Bicycle, encode(made), "b") == made
    assert list(encode(made)) == ["name", "wheels", "size", "owner", "sold", "gears", "notes"]


def test_absent_optional_keys_get_their_defaults():
    made = decode(Bicycle, {"name": "a", "wheels": [], "size": [1, 2, 3]}, "b")
    assert (made.owner, made.sold, made.gears, made.notes) == (None, False, {}, None)


def test_an_unknown_key_names_the_nearest_and_its_path():
    with pytest.raises(
        ConfigError, match=r"^b\.wheels\[1\]: unknown key 'spoks'\. Did you mean 'spokes'\? Known: radius_mm, spokes\.$"
    ):
        decode(Bicycle, {**WHOLE, "wheels": [{"radius_mm": 1}, {"radius_mm": 1, "spoks": 2}]}, "b")


def test_an_unknown_key_far_from_all_others_gets_no_suggestion():
    with pytest.raises(ConfigError) as raised:
        decode(Wheel, {"radius_mm": 1, "qqqqq": 2}, "w")
    assert str(raised.value) == "w: unknown key 'qqqqq'. Known: radius_mm, spokes."


def test_a_missing_key_is_named_with_the_way_out():
    with pytest.raises(ConfigError, match=r"^b\.wheels\[0\]: key 'radius_mm' is missing; add it"):
        decode(Bicycle, {**WHOLE, "wheels": [{}]}, "b")


@pytest.mark.parametrize(
    "change,message",
    [
        ({"name": 3}, r"b\.name: expected text; got 3"),
        ({"name": None}, r"b\.name: expected text; got null"),
        ({"owner": 3}, r"b\.owner: expected text; got 3"),
        ({"sold": 1}, r"b\.sold: expected true or false; got 1"),
        ({"wheels": {}}, r"b\.wheels: expected a list; got \{\}"),
        ({"wheels": "12"}, r'b\.wheels: expected a list; got "12"'),
        ({"wheels": [3]}, r"b\.wheels\[0\]: expected an object; got 3"),
        ({"wheels": [{"radius_mm": "big"}]}, r'b\.wheels\[0\]\.radius_mm: expected a number; got "big"'),
        ({"wheels": [{"radius_mm": True}]}, r"b\.wheels\[0\]\.radius_mm: expected a number; got true"),
        ({"wheels": [{"radius_mm": float("nan")}]}, r"b\.wheels\[0\]\.radius_mm: expected a number; got NaN"),
        ({"wheels": [{"radius_mm": 1, "spokes": 2.0}]}, r"b\.wheels\[0\]\.spokes: expected a whole number; got 2\.0"),
        ({"wheels": [{"radius_mm": 1, "spokes": True}]}, r"b\.wheels\[0\]\.spokes: expected a whole number; got true"),
        ({"size": [1, 2]}, r"b\.size: expected a list of 3 values; got \[1, 2\]"),
        ({"size": [1, 2.5, 3]}, r"b\.size\[1\]: expected a whole number; got 2\.5"),
        ({"gears": [1]}, r"b\.gears: expected an object; got \[1\]"),
        ({"gears": {"front": [1, "x"]}}, r'b\.gears\.front\[1\]: expected a whole number; got "x"'),
    ],
)
def test_a_wrong_type_names_its_path_and_what_came(change, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        decode(Bicycle, {**WHOLE, **change}, "b")


def test_the_root_must_be_an_object():
    with pytest.raises(ConfigError, match=r"^plan\.json: expected an object; got \[\]"):
        decode(Bicycle, [], "plan.json")


def test_json_that_is_absent_or_broken_names_the_file(tmp_path):
    with pytest.raises(ConfigError, match="absent.json does not exist"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(ConfigError, match=r"half\.json is not valid JSON: .*line 1"):
        read_json(tmp_path / "half.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.json is not valid JSON"):
        read_json(tmp_path / "binary.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000 + "]" * 100_000, "too deep"),
        ('{"a":' * 101 + "1" + "}" * 101, "more than 100 deep"),
        ("1" * 5000, "digits"),
        ('{"a": [1, -9223372036854775809]}', "more than 64 bits"),
        (r'{"name": "\ud800"}', "surrogates"),
    ],
    ids=["100,000 deep", "101 deep", "5,000 digits", "65 bits", "half a character"],
)
def test_json_that_python_reads_or_chokes_on_but_no_file_of_ours_holds_is_refused_by_name(tmp_path, text, message):
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_json(tmp_path / "odd.json")
    assert str(tmp_path / "odd.json") in str(caught.value)
    with pytest.raises(ConfigError, match=f"^line 3 .*{message}"):
        parse_json(text.encode(), "line 3")


def test_what_lies_at_the_limits_is_read():
    value = [9223372036854775807, "\U0001f980é"]
    for _ in range(98):
        value = [value]
    assert parse_json(json.dumps(value), "x") == value


def test_equal_values_give_equal_bytes_and_folders_are_made(tmp_path):
    for name in ("one", "two"):
        write_json(tmp_path / name / "deep" / "file.json", decode(Bicycle, WHOLE, "b"))
    one, two = ((tmp_path / name / "deep" / "file.json").read_bytes() for name in ("one", "two"))
    assert one == two and one.endswith(b"}\n")


def test_a_failing_writer_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="disk full"), atomic_path(path) as temporary:
        temporary.write_text("half a se")
        raise RuntimeError("disk full")
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_failing_first_write_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "file.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "image.nii.gz"
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path and temporary.name.endswith(".nii.gz")
        temporary.write_text("half")
        assert not path.exists()
    assert path.read_text() == "half" and list(tmp_path.iterdir()) == [path]


def test_a_writer_may_remove_and_remake_the_temporary(tmp_path):
    with atomic_path(tmp_path / "file") as temporary:
        temporary.unlink()
        temporary.write_text("new")
    assert (tmp_path / "file").read_text() == "new"


def test_files_get_the_permissions_that_the_umask_gives(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_writing_never_changes_the_umask_that_other_threads_see(tmp_path, monkeypatch):
    changes = []
    monkeypatch.setattr(os, "umask", lambda value: changes.append(value) or 0o022)
    threads = [threading.Thread(target=write_text, args=(tmp_path / str(i), "x")) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert changes == [] and len(list(tmp_path.iterdir())) == 4


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + '{\r\n"Schädel": 1}'.encode())
    assert read_json(tmp_path / "a.json") == {"Schädel": 1}


def test_a_key_twice_is_refused_and_named():
    with pytest.raises(ConfigError, match=r"File x is not valid JSON: it holds the key 'liver' twice in one object"):
        parse_json('{"labels": {"background": 0, "liver": 1, "liver": 2}, "liver": 3}', "File x")
    assert parse_json('[{"a": 1}, {"a": {"a": 2}}]', "File x") == [{"a": 1}, {"a": {"a": 2}}]
