"""Every verb of the server, who may speak with it, and what it says to what it cannot do."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from urllib.parse import quote

import nibabel
import numpy as np
import pytest
from annotating import Discs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import write_tiny_dataset

from samunet.core.lock import held
from samunet.errors import DatasetError, InUseError
from samunet.imageio import reader_of_image
from samunet.interaction.state import Block, new_thing
from samunet.serving.desk import MEANT, Desk, Work

pytest.importorskip("fastapi", reason="the extra annotate is not installed")
pytest.importorskip("httpx2", reason="the client of FastAPI's tests is not installed")

from fastapi.testclient import TestClient

from samunet.serving.app import READ, WRITE, make_app
from samunet.serving.guard import Guard

TOKEN, PORT = "token-of-a-test", 8000
ADDRESS = f"http://127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A desk of two cases and a client of its server; making one takes half a second."""
    folder = tmp_path_factory.mktemp("served")
    images = sorted((write_tiny_dataset(folder, cases=2) / "imagesTr").iterdir())
    names = [image.name.replace("_0000.nii.gz", "") for image in images]
    works = [
        Work(name=name, images=(image,), output=folder / "labels" / f"{name}.nii.gz")
        for name, image in zip(names, images, strict=True)
    ]
    desk = Desk(works, Discs(), objects=[new_thing(1), new_thing(2)], folder=folder / "sent", table=folder / "took.csv")
    app = Guard(make_app(desk), TOKEN, PORT, largest=200_000)
    return desk, TestClient(app, base_url=f"{ADDRESS}/{TOKEN}", raise_server_exceptions=False)


@pytest.fixture
def desk(served):
    desk, _ = served
    yield desk
    desk.close()
    for folder in (desk.folder, next(iter(desk.works.values())).output.parent):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def client(served, desk):
    return served[1]


@pytest.fixture
def ask(client, desk):
    """Call a verb that must succeed, on the first case."""

    def ask(verb, **body):
        answer = client.get(verb) if verb in READ else client.post(verb, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    ask("set_image", name=next(iter(desk.works)))
    return ask


def labels(ask):
    block = ask("target_buffer")
    return Block(box=block["box"], dtype=block["dtype"], data=block["data"]).array()


def sent(array):
    block = Block.of(array)
    return {"box": block.box, "dtype": block.dtype, "data": block.data}


def test_a_click_answers_with_the_labels_around_it(ask):
    answer = ask("add_point_interaction", coordinates=[9, 8, 2], object=2)
    assert labels(ask)[2, 8, 9] == 2 and (labels(ask) > 0).sum() == 13  # pixels within 2 of one
    block = answer["labels"]
    changed = Block(box=block["box"], dtype=block["dtype"], data=block["data"]).array()
    assert block["box"] == [[2, 3], [6, 11], [7, 12]] and (changed == 2).sum() == 13
    assert answer["state"]["draft"] == {
        "object": 2,
        "quality": 0.9,
        "prompts": [{"kind": "point", "include": True, "points": [[9, 8, 2]]}],
    }


@pytest.mark.parametrize(
    "verb, body, inside",
    [
        ("add_bbox_interaction", {"bbox": [[4, 8], [5, 7], [3, 4]]}, (3, 5, 4)),
        ("add_lasso_interaction", {"points": [[4, 5, 3], [9, 5, 3], [9, 9, 3], [4, 9, 3]]}, (3, 7, 6)),
        ("add_scribble_interaction", {"points": [[4, 5, 3], [9, 5, 3]]}, (3, 5, 7)),
        ("paint", {"points": [[4, 5, 3], [9, 5, 3]], "radius": 1.0}, (3, 5, 7)),
    ],
)
def test_boxes_lassos_scribbles_and_brushes_show_an_object(ask, verb, body, inside):
    ask(verb, **body)
    assert labels(ask)[inside] == 1


def test_what_is_not_of_the_object_is_taken_off(ask):
    ask("add_point_interaction", coordinates=[9, 8, 2])
    ask("add_point_interaction", coordinates=[10, 8, 2], include_interaction=False)
    assert labels(ask)[2, 8, 9] == 0


def test_prompts_may_wait_for_predict(ask):
    assert ask("add_point_interaction", coordinates=[9, 8, 2], run_prediction=False)["labels"] is None
    ask("predict")
    assert labels(ask)[2, 8, 9] == 1


def test_a_draft_is_accepted_or_discarded(ask):
    ask("add_point_interaction", coordinates=[9, 8, 2])
    assert ask("discard")["state"]["draft"] is None and not labels(ask).any()
    ask("add_point_interaction", coordinates=[9, 8, 2])
    assert ask("accept")["state"]["draft"] is None and labels(ask).any()


def test_undo_and_redo_go_back_and_forth(ask):
    ask("paint", points=[[9, 8, 2]], radius=0)
    assert not ask("undo")["state"]["undo"] and not labels(ask).any()
    assert not ask("redo")["state"]["redo"] and labels(ask).sum() == 1
    ask("paint", points=[[9, 8, 2]], radius=0, erase=True)
    assert not labels(ask).any()


def test_an_initial_segmentation_is_set_and_reset(ask):
    mask = np.zeros(labels(ask).shape, bool)
    mask[1:3, 4:9, 5:7] = True
    ask("add_initial_seg_interaction", initial_seg=sent(mask), object=2)
    assert np.array_equal(labels(ask) == 2, mask)
    ask("reset_interactions", object=2)
    assert not labels(ask).any()


def test_planes_between_are_filled_and_the_next_ones_carried_on(ask):
    for z in (0, 2):
        ask("paint", points=[[9, 8, z]], radius=3)
    assert "1 planes" in ask("interpolate")["note"] and labels(ask)[1, 8, 9] == 1
    assert "planes" in ask("propagate", index=2)["note"]


def test_objects_are_added_and_named(ask):
    assert ask("name_object", name="cyst")["object"] == 3
    objects = ask("name_object", object=3, name="tumor")["state"]["objects"]
    assert [thing["name"] for thing in objects] == ["object 1", "object 2", "tumor"]


def test_saving_writes_the_labels_and_what_the_case_took(ask, desk):
    ask("add_point_interaction", coordinates=[9, 8, 2])
    answer = ask("save")
    work = desk.works[desk.case]
    written = reader_of_image(work.output, None).read_label(work.output)[0]
    assert answer["state"]["saved"] and np.array_equal(written, labels(ask)) and written.any()
    assert np.allclose(nibabel.load(work.output).affine, nibabel.load(work.images[0]).affine)
    with desk.table.open() as file:
        (row,) = csv.DictReader(file)
    assert row["case"] == desk.case and row["clicks"] == "1"


def test_another_case_is_opened_and_the_first_found_again_as_it_was_left(ask, desk):
    first, second = desk.works
    ask("add_point_interaction", coordinates=[9, 8, 2])
    assert ask("set_image", name=second)["draft"] is None
    assert ask("set_image", name=first)["draft"]["prompts"] and labels(ask).any()


def test_a_program_sends_an_image_with_its_grid(ask, desk):
    image = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
    state = ask("set_image", name="mine", array=sent(image), spacing=[0.5, 1, 3], origin=[1, 2, 3])
    assert (state["shape"], state["spacing"]) == ([6, 5, 4], [0.5, 1, 3])
    ask("add_point_interaction", coordinates=[5, 4, 3])
    ask("save")
    file = nibabel.load(desk.folder / "mine.nii.gz")
    assert file.get_fdata()[5, 4, 3] == 1
    assert np.allclose(file.affine, [[-0.5, 0, 0, -1], [0, -1, 0, -2], [0, 0, 3, 3], [0, 0, 0, 1]])  # RAS


def test_a_label_file_without_a_journal_is_gone_on_with(ask, desk):
    image = sent(np.zeros((4, 5, 6), np.uint8))
    ask("set_image", name="mine", array=image)
    ask("add_point_interaction", coordinates=[5, 4, 3])
    ask("save")
    before = labels(ask)
    desk.close()
    shutil.rmtree(desk.folder / ".annotating")
    ask("set_image", name="mine", array=image)
    assert before.any() and np.array_equal(labels(ask), before)


def test_state_tells_the_grid_and_progress_what_is_encoded(ask, desk):
    state = ask("state")
    grid = desk.session.volume.geometry
    assert (state["shape"], state["orientation"]) == (list(grid.shape[::-1]), "LPS")
    assert [case["name"] for case in state["cases"]] == list(desk.works)
    assert ask("progress") == {"done": 0, "of": 0}


def test_the_page_gets_the_image_and_its_own_files(ask, client, desk):
    image = nibabel.Nifti1Image.from_bytes(client.get("image.nii").content)
    file = nibabel.load(desk.works[desk.case].images[0])
    assert np.allclose(image.get_fdata(), file.get_fdata()) and np.allclose(image.affine, file.affine)
    page = client.get("")
    assert "<canvas" in page.text and "default-src 'none'" in page.headers["content-security-policy"]
    assert all(
        client.get(name).status_code == 200 for name in ("annotate.js", "annotate.css", "planes.js", "niivue.js")
    )


def test_every_verb_is_described(client):
    paths = client.get("openapi.json").json()["paths"]
    assert set(paths) == {f"/{verb}" for verb in (*READ, *WRITE)}
    assert all(one["summary"] and one["description"] for path in paths.values() for one in path.values())


@pytest.mark.parametrize(
    "url, headers, reason",
    [
        (f"{ADDRESS}/", {}, "lacks the token"),
        (f"{ADDRESS}/wrong/state", {}, "lacks the token"),
        (f"{ADDRESS}/{TOKEN}x/state", {}, "lacks the token"),
        (f"{ADDRESS}/{TOKEN}/state", {"host": "elsewhere.org"}, "127.0.0.1 or localhost"),
        (f"{ADDRESS}/{TOKEN}/state", {"host": "127.0.0.1:1"}, "127.0.0.1 or localhost"),
        (f"{ADDRESS}/{TOKEN}/state", {"origin": "https://elsewhere.org"}, "elsewhere.org may not"),
        (f"{ADDRESS}/{TOKEN}/state", {"origin": "null"}, "null may not"),
    ],
)
def test_strangers_are_turned_away(client, url, headers, reason):
    answer = client.get(url, headers=headers)
    assert answer.status_code == 403 and reason in answer.json()["error"]
    assert TOKEN not in answer.text


def test_the_page_itself_is_let_in(client):
    for host in (f"127.0.0.1:{PORT}", f"localhost:{PORT}"):
        assert client.get("state", headers={"host": host, "origin": f"http://{host}"}).status_code == 200


@pytest.mark.parametrize("told", [True, False])
def test_a_request_that_is_too_large_is_refused(client, told):
    body = b" " * 200_001
    answer = client.post("accept", content=body if told else iter([body[:100_000], body[100_000:]]))
    assert answer.status_code == 413 and "200000 bytes" in answer.json()["error"]


@pytest.mark.parametrize(
    "verb, body, status, reason",
    [
        ("add_point_interaction", {"coordinates": [99, 0, 0]}, 400, r"lies in the image of \d+ x \d+ x \d+ voxels"),
        ("add_point_interaction", {"coordinates": [1, 1]}, 400, "lies in the image"),
        ("add_point_interaction", {"coordinates": [1, 1, 10**30]}, 400, "lies in the image"),
        ("add_point_interaction", {"coordinates": [1, 1, 1], "axis": 3}, 400, "axis is 0, 1 or 2"),
        ("add_point_interaction", {"coordinates": [1, 1, 1], "object": 9}, 400, "no object 9"),
        ("add_point_interaction", {"coordinates": "here"}, 422, "coordinates: .*list"),
        ("add_point_interaction", {"coordinates": [1, 1, 1], "object_": 1}, 422, "object_"),
        ("add_point_interaction", {}, 422, "coordinates: Field required"),
        ("add_bbox_interaction", {"bbox": [[5, 5], [1, 2], [1, 2]]}, 400, "first and one past the last"),
        ("add_lasso_interaction", {"points": [[1, 1, 1], [2, 2, 2]]}, 400, "in one plane"),
        ("add_scribble_interaction", {"points": []}, 400, "in one plane"),
        ("paint", {"points": [[1, 1, 1]], "radius": -1}, 400, "0 mm or more"),
        ("predict", {}, 400, "no draft"),
        ("interpolate", {}, 400, "no plane empty"),
        ("propagate", {"index": 1}, 400, "from a plane that shows it"),
        ("undo", {}, 400, "nothing to undo"),
        ("redo", {}, 400, "nothing to redo"),
        ("name_object", {"name": ""}, 400, "1 to 200 characters"),
        ("set_image", {"name": "../secret"}, 400, "no case"),
        ("set_image", {"name": "../x", "array": sent(np.zeros((2, 3, 4), np.uint8))}, 400, "case"),
        ("set_image", {"name": "x", "array": {"box": [[0, 2**40]] * 3, "dtype": "uint8", "data": ""}}, 400, "voxels"),
        ("set_image", {"name": "x", "array": {"box": [[0, 2]] * 3, "dtype": "uint8", "data": "AAAA"}}, 400, "8 bytes"),
        ("set_image", {"name": "x", "array": {"box": [[0, 1]] * 3, "dtype": "O", "data": ""}}, 400, "holds"),
        ("add_initial_seg_interaction", {"initial_seg": sent(np.zeros((2, 2, 2), bool))}, 400, "box must be"),
        ("nonsense", {}, 404, "The verbs are"),
        ("state", {}, 405, "Method Not Allowed"),
    ],
)
def test_bad_input_gets_one_sentence_and_changes_nothing(ask, client, verb, body, status, reason):
    before = ask("state")
    answer = client.post(verb, json=body)
    assert answer.status_code == status and list(answer.json()) == ["error"]
    assert re.search(reason, answer.json()["error"])
    assert ask("state") == before


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b"[]", b'{"object": NaN}', b""])
def test_what_is_no_json_of_a_request_is_refused(ask, client, content):
    answer = client.post("interpolate", content=content, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422) and json.loads(answer.text)["error"]


def test_nothing_is_asked_of_an_image_that_is_not_open(client):
    assert client.get("state").json()["case"] == ""
    answer = client.post("accept")
    assert answer.status_code == 400 and "No image is open" in answer.json()["error"]


def test_a_file_that_another_program_annotates_is_busy(ask, client, desk):
    works = list(desk.works.values())
    other = Desk(works, Discs(), objects=desk.objects)
    other.open(works[1].name)
    answer = client.post("set_image", json={"name": works[1].name})
    other.close()
    assert answer.status_code == 409 and "error" in answer.json()


@pytest.mark.parametrize("number, way_out", [(28, "make space and"), (13, "see that the file is there and")])
def test_a_file_that_cannot_be_written_is_told_with_the_way_out(ask, client, desk, monkeypatch, number, way_out):
    def fail():
        raise OSError(number, os.strerror(number), "labels.nii.gz")

    monkeypatch.setattr(desk.session, "save", fail)
    answer = client.post("save")
    told = f"labels.nii.gz: {os.strerror(number)}. Nothing was changed; {way_out}"
    assert answer.status_code == 400 and answer.json()["error"].startswith(told)


def drawn(schema, schemas):
    """Return a strategy for what a JSON schema of the description allows."""
    if "$ref" in schema:
        return drawn(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "anyOf" in schema:
        return st.one_of([drawn(one, schemas) for one in schema["anyOf"]])
    kind = schema["type"]
    if kind == "object":
        needed, optional = {}, {}
        for name, part in schema["properties"].items():
            (needed if name in schema.get("required", ()) else optional)[name] = drawn(part, schemas)
        return st.fixed_dictionaries(needed, optional=optional)
    if kind == "array":
        items = drawn(schema["items"], schemas)
        return st.lists(items, max_size=4) | st.lists(items, min_size=3, max_size=3)
    return {
        "integer": st.integers(-2, 12) | st.integers(),
        "number": st.floats(0, 5) | st.floats(allow_nan=False, allow_infinity=False),
        "string": st.sampled_from(["bool", "uint8", "", "AAAA", "a"]) | st.text(),
        "boolean": st.booleans(),
        "null": st.none(),
    }[kind]


def requests_of(client):
    """Return each verb that takes something, with a strategy for it, by the server's own description."""
    told = client.get("openapi.json").json()
    for path, methods in told["paths"].items():
        for method, verb in methods.items():
            content = verb.get("requestBody", {}).get("content", {"": {"schema": {"type": "null"}}})
            (schema,) = (one["schema"] for one in content.values())
            yield method, path.lstrip("/"), drawn(schema, told["components"]["schemas"])


def fuzzed(client, examples):
    for method, verb, bodies in requests_of(client):
        ask = partial(client.request, method, verb)

        @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(body=bodies, ask=st.just(ask))
        def fuzz(body, ask):
            answer = ask(**({} if body is None else {"json": body}))
            assert answer.status_code in (200, 400, 422), (ask.args, body, answer.text)
            assert answer.status_code == 200 or answer.json()["error"]

        fuzz()


def test_some_requests_that_fit_the_description_do_not_break_the_server(ask, client):
    fuzzed(client, 3)


@pytest.mark.slow
def test_no_request_that_fits_the_description_breaks_the_server(ask, client):
    fuzzed(client, 200)


def test_what_is_meant_for_one_case_never_lands_in_another(client, ask, desk):
    first, second = desk.works
    ask("set_image", name=second)
    click = {"coordinates": [2, 2, 2], "object": 1}
    refused = client.post("add_point_interaction", json=click, headers={"x-case": quote(first)})
    assert refused.status_code == 409 and f"opened {second} meanwhile" in refused.json()["error"]
    assert not desk.session.steps and desk.session.state.draft is None
    assert client.post("add_point_interaction", json=click, headers={"x-case": quote(second)}).status_code == 200
    meant = MEANT.set(second)
    assert desk.session
    desk.open(first)  # by another page, after the request was let in
    with pytest.raises(InUseError, match=f"opened {first} meanwhile"):
        desk.session  # noqa: B018 - it is what verbs ask for
    MEANT.reset(meant)


def test_other_columns_and_rows_of_the_table_stay_as_they_are(ask, desk):
    desk.table.write_text('who,case,clicks,note\nA. B.,other,7,"fast, blurred"\nC.,tiny_000,1,again\n', "utf-8-sig")
    ask("add_point_interaction", coordinates=[9, 8, 2])
    for _ in range(2):
        ask("save")
        with desk.table.open(newline="", encoding="utf-8") as file:
            head, *rows = csv.reader(file)
        assert head[:4] == ["who", "case", "clicks", "note"] and head[4:6] == ["boxes", "scribbles and lassos"]
        assert rows[0] == ["A. B.", "other", "7", "fast, blurred", *[""] * (len(head) - 4)]
        assert rows[1][:4] == ["C.", "tiny_000", "1", "again"] and len(rows) == 2 and all(rows[1])
    desk.table.unlink()


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"case;clicks\na;1\n", "no column 'case'"),
        (b"case,clicks\na,1,2\n", "more than the 2 cells"),
        (b"case,clicks\na,\xff\n", "utf-8"),
        (b'case\n"a\n', "unexpected end of data"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_name_and_kept(ask, client, desk, content, reason):
    desk.table.write_bytes(content)
    with pytest.raises(DatasetError, match=re.escape(str(desk.table)) + ".*" + reason):
        Desk((), Discs(), table=desk.table)
    ask("add_point_interaction", coordinates=[9, 8, 2])
    answer = client.post("save")
    assert answer.status_code == 400 and reason in answer.json()["error"]
    work = desk.works[desk.case]
    assert f"The labels are saved to {work.output}" in answer.json()["error"] and work.output.is_file()
    assert desk.table.read_bytes() == content
    desk.table.unlink()


def test_a_case_that_cannot_be_opened_leaves_the_open_one_and_the_server(ask, client, desk, monkeypatch):
    first, second = desk.works
    ask("add_point_interaction", coordinates=[9, 8, 2])
    before = ask("state")
    work = desk.works[second]
    damaged = desk.folder / "damaged.nii.gz"
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(work.images[0].read_bytes()[:200])
    monkeypatch.setitem(desk.works, second, replace(work, images=(damaged,)))
    answer = client.post("set_image", json={"name": second})
    assert answer.status_code == 400 and str(damaged) in answer.json()["error"]
    assert ask("state") == before
    ask("add_point_interaction", coordinates=[10, 8, 2])


def test_what_nobody_foresaw_is_a_sentence_too(ask, client, desk, monkeypatch):
    monkeypatch.setattr(desk.model, "answer", lambda *_: 1 / 0)
    answer = client.post("add_point_interaction", json={"coordinates": [9, 8, 2]})
    assert answer.status_code == 500 and "ZeroDivisionError: division by zero" in answer.json()["error"]


@pytest.mark.parametrize(
    "fault, status, reason",
    [
        (OSError(28, "No space left on device", "axis0_plane.b2nd"), 400, "axis0_plane.b2nd: No space left on device"),
        (RuntimeError("of a device"), 400, "RuntimeError: of a device"),
        (None, 409, "is in use by"),
    ],
)
def test_an_error_of_encoding_beforehand_is_told(ask, client, desk, tmp_path, monkeypatch, fault, status, reason):
    name = next(iter(desk.works))
    monkeypatch.setattr(desk, "cache", tmp_path)
    if fault is not None:
        monkeypatch.setattr("samunet.interaction.embeddings.write_json", lambda *_: (_ for _ in ()).throw(fault))
    with held(tmp_path / name) if fault is None else nullcontext():
        ask("set_image", name=name)
        desk._filling.join()
    answer = client.get("progress")
    assert answer.status_code == status
    assert answer.json()["error"].startswith("Planes are encoded as you click") and reason in answer.json()["error"]
    ask("add_point_interaction", coordinates=[9, 8, 2])
    monkeypatch.undo()
    ask("set_image", name=name)
    assert ask("progress") == {"done": 0, "of": 0}
