"""Official checkpoints: trust by hash, and downloads from a local server that breaks off, knows no ranges, or lies."""

from __future__ import annotations

import dataclasses
import http.server
import re
import threading
from functools import partial

import pytest
import torch

from samunet.cli import weights as command
from samunet.core.codec import file_sha256
from samunet.core.units import readable
from samunet.errors import CheckpointError, ConfigError, WeightsAbsentError
from samunet.sam import checkpoints
from samunet.sam.backbones import backbone_named
from samunet.sam.build import build_sam
from samunet.sam.checkpoints import (
    CHECKPOINTS,
    checkpoint_named,
    find_weights,
    record_sha256,
    recorded_sha256,
    trusted_sha256,
)
from samunet.sam.download import download

NANO = backbone_named("vit_nano")


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves one file; a server's `ranges` and `break_after` say how well it behaves."""

    def do_GET(self):
        content, begin = self.server.content, 0
        self.server.requests.append(self.headers.get("Range"))
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and self.server.ranges:
            begin = int(asked[1])
            if begin >= len(content):
                self.send_response(416)
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        self.wfile.write(
            content[begin:] if self.server.break_after is None else content[begin : begin + self.server.break_after]
        )

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    torch.manual_seed(3)
    torch.save(build_sam(NANO, (64, 64)).state_dict(), tmp_path / "served.pth")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.content, made.requests, made.ranges, made.break_after = (
            (tmp_path / "served.pth").read_bytes(),
            [],
            True,
            None,
        )
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def served(server, tmp_path):
    """A checkpoint of the smallest backbone on the local server, with its true hash."""
    return dataclasses.replace(
        CHECKPOINTS[0],
        name="sam_vit_nano",
        backbone="vit_nano",
        url=f"http://127.0.0.1:{server.server_port}/sam_vit_nano.pth",
        size=len(server.content),
        sha256=file_sha256(tmp_path / "served.pth"),
    )


fetch = partial(download, quiet=True)


def test_a_download_lands_whole(server, served, tmp_path):
    target = tmp_path / "cache" / "new" / served.file
    assert fetch(served, target) == served.sha256
    assert target.read_bytes() == server.content
    assert [path.name for path in target.parent.iterdir()] == [served.file]


def test_a_broken_download_is_kept_and_continued(server, served, tmp_path):
    target = tmp_path / served.file
    server.break_after = 1000
    with pytest.raises(
        WeightsAbsentError, match=rf"ended after 1000 of {len(server.content)} bytes.*put it at {target}"
    ):
        fetch(served, target)
    assert not target.exists()
    server.break_after = None
    fetch(served, target)
    assert target.read_bytes() == server.content
    assert server.requests == [None, "bytes=1000-"]


def test_a_server_without_ranges_sends_everything_again(server, served, tmp_path):
    (tmp_path / (served.file + ".part")).write_bytes(b"x" * 500)
    server.ranges = False
    fetch(served, tmp_path / served.file)
    assert (tmp_path / served.file).read_bytes() == server.content


def test_another_file_than_published_is_removed(server, served, tmp_path):
    server.content = server.content[:-1] + b"!"
    with pytest.raises(CheckpointError, match=rf"expected {served.sha256}; it was removed"):
        fetch(served, tmp_path / served.file)
    assert not list(tmp_path.glob(f"{served.file}*"))


def test_without_a_published_hash_the_file_waits_until_it_is_accepted(server, served, tmp_path):
    unknown, target = dataclasses.replace(served, sha256=None), tmp_path / served.file
    with pytest.raises(CheckpointError, match=f"--sha256 {served.sha256}"):
        fetch(unknown, target)
    assert not target.exists()
    fetch(unknown, target, accept=lambda found: found == served.sha256)
    assert target.read_bytes() == server.content and recorded_sha256(target) == served.sha256
    assert server.requests == [None, f"bytes={len(server.content)}-"]  # the second time nothing is sent again


def test_a_hash_that_the_user_gives_must_be_the_files(server, served, tmp_path):
    unknown, target = dataclasses.replace(served, sha256=None), tmp_path / served.file
    with pytest.raises(CheckpointError, match="expected 00.*it was removed"):
        fetch(unknown, target, given="0" * 64)
    assert not list(tmp_path.glob(f"{served.file}*"))
    assert fetch(unknown, target, given=served.sha256.upper()) == served.sha256
    with pytest.raises(CheckpointError, match="has the published SHA-256"):
        fetch(served, target, given="0" * 64)


def test_without_a_network_the_message_says_what_to_put_where(served, tmp_path):
    unreachable = dataclasses.replace(served, url="http://127.0.0.1:9/sam_vit_nano.pth")
    with pytest.raises(WeightsAbsentError) as caught:
        fetch(unreachable, tmp_path / "x.pth")
    message = str(caught.value)
    assert caught.value.exit_code == 4
    assert all(
        part in message for part in (unreachable.url, readable(served.size), served.sha256, str(tmp_path / "x.pth"))
    )


def test_the_table_holds_the_published_files():
    assert [checkpoint.name for checkpoint in CHECKPOINTS] == ["sam_vit_b", "sam_vit_l", "sam_vit_h", "medsam_vit_b"]
    for checkpoint in CHECKPOINTS:
        assert backbone_named(checkpoint.backbone).pretrained and checkpoint.url.startswith("https://")
        assert checkpoint.sha256 is None or re.fullmatch("[0-9a-f]{64}", checkpoint.sha256)
    assert checkpoint_named("sam_vit_b_01ec64.pth").name == "sam_vit_b"
    with pytest.raises(ConfigError, match="Did you mean 'sam_vit_b'"):
        checkpoint_named("sam_vitb")


def test_weights_are_found_by_path_then_by_name_in_the_folders(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "sam_vit_b_01ec64.pth").write_text(folder.name)
    own = tmp_path / "own.pth"
    own.write_text("own")
    assert find_weights(str(own), (first,)) == own
    assert find_weights("sam_vit_b", (tmp_path / "absent", second, first)).read_text() == "second"
    assert find_weights(str(tmp_path / "gone" / "sam_vit_b_01ec64.pth"), (first,)).read_text() == "first"
    with pytest.raises(WeightsAbsentError, match="samunet_weights download sam_vit_h"):
        find_weights("sam_vit_h", (first,))
    with pytest.raises(WeightsAbsentError, match=r"own2\.pth does not exist"):
        find_weights("own2.pth", (first,))


def test_a_file_is_trusted_by_a_published_or_given_hash(tmp_path, monkeypatch):
    path = tmp_path / "fine-tuned.pth"
    path.write_bytes(b"weights")
    true = file_sha256(path)
    with pytest.raises(CheckpointError, match=f"none of SAM's official checkpoints.*--sha256 {true}"):
        trusted_sha256(path)
    assert trusted_sha256(path, true.upper()) == true
    with pytest.raises(CheckpointError, match="expected 00"):
        trusted_sha256(path, "00")
    record_sha256(path, true)  # a file that brings its own hash proves nothing
    with pytest.raises(CheckpointError, match="none of SAM's official checkpoints"):
        trusted_sha256(path, folders=(tmp_path,))
    official = tmp_path / "sam_vit_b_01ec64.pth"
    official.write_bytes(b"truncated")
    record_sha256(official, file_sha256(official))
    with pytest.raises(CheckpointError, match="expected ec2df6"):
        trusted_sha256(official, file_sha256(official), (tmp_path,))  # the published hash decides
    monkeypatch.setattr(
        checkpoints, "CHECKPOINTS", (dataclasses.replace(CHECKPOINTS[0], sha256=file_sha256(official)),)
    )
    assert trusted_sha256(official) == file_sha256(official)


def test_a_recorded_hash_counts_for_official_files_without_a_published_one_in_the_known_folders(tmp_path):
    path = tmp_path / "medsam_vit_b.pth"
    path.write_bytes(b"weights")
    record_sha256(path, file_sha256(path))
    assert trusted_sha256(path, folders=(tmp_path,)) == file_sha256(path)
    link = tmp_path.with_name(f"{tmp_path.name}_link")
    link.symlink_to(tmp_path, target_is_directory=True)
    assert trusted_sha256(link / path.name, folders=(link,)) == file_sha256(path)
    with pytest.raises(CheckpointError, match="none of SAM's official"):
        trusted_sha256(path)
    path.write_bytes(b"other")
    with pytest.raises(CheckpointError, match="has SHA-256"):
        trusted_sha256(path, folders=(tmp_path,))


@pytest.fixture
def cache(tmp_path, monkeypatch, served):
    """The command's own folder, and a table that holds the served checkpoint alone."""
    monkeypatch.setenv("SAMUNET_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", (served,))
    return tmp_path / "weights"


def test_the_command_lists_downloads_and_verifies(cache, served, capsys):
    assert command.main(["list"]) == 0
    assert f"not here: {served.url}" in capsys.readouterr().out
    assert command.main(["download", "sam_vit_nano", "--no_pbar"]) == 0
    assert str(cache / served.file) in capsys.readouterr().out
    assert command.main(["download", "sam_vit_nano"]) == 0
    assert "is here already" in capsys.readouterr().out
    assert command.main(["verify"]) == 0
    assert "whole" in capsys.readouterr().out
    with open(cache / served.file, "ab") as file:
        file.write(b"!")
    assert command.main(["verify", "sam_vit_nano"]) == 2
    assert "1 of 1 checkpoint cannot be used: sam_vit_nano" in capsys.readouterr().err


def test_the_command_imports_a_file_by_its_hash(cache, served, capsys, tmp_path):
    assert command.main(["import", str(tmp_path / "served.pth")]) == 0
    assert file_sha256(cache / served.file) == served.sha256
    (tmp_path / served.file).write_bytes(b"other")
    assert command.main(["import", str(tmp_path / served.file)]) == 2
    assert "none of the official files with a published hash" in capsys.readouterr().err
    assert command.main(["import", str(tmp_path / "absent.pth")]) == 4


def test_a_file_of_unknown_hash_is_imported_after_a_yes_only(cache, served, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHECKPOINTS", (dataclasses.replace(served, sha256=None),))
    bring = ["import", str(tmp_path / "served.pth"), "--name", "sam_vit_nano"]
    assert command.main(bring) == 2
    assert "was not accepted" in capsys.readouterr().err and not (cache / served.file).exists()
    assert command.main([*bring, "--yes"]) == 0
    assert recorded_sha256(cache / served.file) == served.sha256
    assert command.main(["verify"]) == 0
