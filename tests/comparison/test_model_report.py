"""A page on a trained model, and pictures of training cases."""

from __future__ import annotations

import re
import shutil

from samunet.cli import plot_overlay_pngs, report


def test_the_page_shows_scores_pictures_curve_and_plan(environment, project, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))  # other tests compare the shared model with itself
    project.train("1", results=tmp_path / "results")
    page = tmp_path / "page.html"
    assert report.main(["-d", project.dataset, "3d_adapter", "-o", str(page), "-np", "1"]) == 0
    assert re.search(r"Mean foreground Dice \d\.\d{4} on \d validation case", capsys.readouterr().out)
    text = page.read_text()
    assert f"3d_adapter on {project.dataset}" in text and "Learning curve" in text and "patch" in text
    assert (
        text.count("<img") >= 2
        and "2d_adapter: patch" not in text
        and not re.search(r"""(src|href)=["'](?!data:)""", text)
    )


def test_an_unvalidated_model_says_what_to_do(environment, project, capsys):
    assert report.main(["-d", project.dataset, "3d_nothing"]) == 2
    assert "holds no validation scores" in capsys.readouterr().err


def test_every_training_case_is_drawn(environment, project, tmp_path, capsys):
    assert plot_overlay_pngs.main(["-d", project.dataset, "-o", str(tmp_path), "-channel_idx", "1", "-np", "1"]) == 0
    labels = project.workspace.raw / project.dataset / "labelsTr"
    assert {path.stem for path in tmp_path.glob("*.png")} == {
        path.name.removesuffix(".nii.gz") for path in labels.iterdir()
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.glob("*.png"))
    assert plot_overlay_pngs.main(["-d", project.dataset, "-o", str(tmp_path), "-channel_idx", "2"]) == 2
    assert "has the channels 0 to 1" in capsys.readouterr().err
    shutil.rmtree(tmp_path)
