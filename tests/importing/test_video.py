"""Clips become volumes and come back as frames, pixel for pixel."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from samunet.checking.run import check_dataset
from samunet.cli import frames as back
from samunet.cli import import_dataset
from samunet.imageio import reader_for
from samunet.importing import video


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """Two clips with masks and one without; frame f of clip c has its own picture."""
    random = np.random.default_rng(0)
    for clip, count in (("op 1", 4), ("op 2", 6), ("test", 3)):
        for folder in ("frames", "masks") if clip != "test" else ("frames",):
            (tmp_path / folder / clip).mkdir(parents=True)
        for frame in range(count):
            name = f"f{frame:03d}"
            Image.fromarray(random.integers(0, 255, (20, 24, 3), np.uint8)).save(
                tmp_path / "frames" / clip / f"{name}.png"
            )
            if clip != "test":
                mask = Image.fromarray(random.integers(0, 3, (20, 24), np.uint8))
                if clip == "op 2":  # colors for people, indices for machines
                    mask.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
                mask.save(tmp_path / "masks" / clip / f"{name}.png")
    (tmp_path / "raw").mkdir()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    return tmp_path


def command(clips, name="Dataset070_Video"):
    sources = ["-i", str(clips / "frames"), "-l", str(clips / "masks")]
    return import_dataset.main(["video", *sources, "-d", name, "--labels", "shaft=1", "wrist=2", "--no_pbar"])


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_clips_become_volumes_of_time_height_and_width(clips):
    assert command(clips) == 0
    folder, reader = clips / "raw/Dataset070_Video", reader_for(".nii.gz")
    assert check_dataset(folder, threads=1, quiet=True).findings == ()
    volume = reader.read_image([folder / f"imagesTr/op_2_000{channel}.nii.gz" for channel in range(3)])
    assert volume.array.shape == (3, 6, 20, 24) and volume.geometry.spacing == (1, 1, 1)
    for frame in range(6):
        assert np.array_equal(
            volume.array[:, frame], pixels(clips / f"frames/op 2/f{frame:03d}.png").transpose(2, 0, 1)
        )
    label, _ = reader.read_label(folder / "labelsTr/op_2.nii.gz")
    assert np.array_equal(label[3], pixels(clips / "masks/op 2/f003.png"))
    assert len(list((folder / "imagesTs").iterdir())) == 3


def test_predictions_become_frames_again(clips, capsys):
    command(clips)
    predictions = clips / "raw/Dataset070_Video/labelsTr"  # a perfect prediction
    arguments = ["-i", str(predictions), "--frames", str(clips / "frames"), "-o", str(clips / "out")]
    assert back.main(arguments) == 0 and "Wrote 10 frames" in capsys.readouterr().out
    for path in (clips / "masks").rglob("*.png"):
        assert np.array_equal(pixels(clips / "out" / path.relative_to(clips / "masks")), pixels(path))
    assert (
        back.main(arguments) == 2 and "f000.png exists already; give a folder without frames" in capsys.readouterr().err
    )
    assert back.main([*arguments[:4], "-o", str(clips / "frames")]) == 2 and "exists already" in capsys.readouterr().err
    (clips / "frames/op 1/f003.png").unlink()
    assert back.main([*arguments[:4], "-o", str(clips / "other")]) == 2 and "has 4 frames" in capsys.readouterr().err
    assert back.main(["-i", str(clips), *arguments[2:]]) == 2 and "holds no <clip>.nii.gz" in capsys.readouterr().err


def test_frames_count_by_their_numbers_and_keep_their_values(tmp_path):
    frames, masks = tmp_path / "frames/a", tmp_path / "masks/a"
    frames.mkdir(parents=True), masks.mkdir(parents=True)
    for number in (1, 2, 10):
        Image.fromarray(np.full((4, 6), 1000 * number, np.uint16)).save(frames / f"f{number}.png")
        Image.fromarray(np.full((4, 6), 4000 * number, np.uint16)).save(masks / f"f{number}.png")
    (case,) = video.stack_clips(frames.parent, masks.parent, tmp_path)
    reader = reader_for(".nii.gz")
    assert reader.read_image(case.images).array[:, :, 0, 0].tolist() == 3 * [[1000, 2000, 10000]]
    assert reader.read_label(case.label)[0][:, 0, 0].tolist() == [4000, 8000, 40000]


def test_clips_that_do_not_fit_are_refused(clips, capsys):
    (clips / "masks/op 1/f002.png").rename(clips / "masks/op 1/g002.png")
    assert command(clips) == 2 and "has no frame for 1 file of" in capsys.readouterr().err
    (clips / "masks/op 1/g002.png").unlink()
    assert command(clips) == 2 and "op 1 has no mask for 1 file of" in capsys.readouterr().err
    (clips / "masks/op 3").mkdir()
    assert command(clips) == 2 and "holds 1 folders without a clip" in capsys.readouterr().err
    (clips / "masks/op 3").rmdir()
    Image.new("L", (24, 20)).save(clips / "frames/op 1/f001.bmp")
    assert command(clips) == 2 and "f001.bmp and f001.png would be one frame" in capsys.readouterr().err
    (clips / "frames/op 1/f001.bmp").unlink()
    Image.new("RGBA", (24, 20)).save(clips / "frames/op 1/f001.png")
    assert command(clips) == 2 and "remove the alpha channel" in capsys.readouterr().err
    Image.new("RGB", (9, 9)).save(clips / "frames/op 1/f001.png")
    assert command(clips) == 2 and "frames of a clip must share one size" in capsys.readouterr().err
    (clips / "frames/op 1/f000.png").write_bytes(b"no picture")
    assert command(clips) == 2 and "cannot be read" in capsys.readouterr().err
    assert list((clips / "raw").iterdir()) == []
