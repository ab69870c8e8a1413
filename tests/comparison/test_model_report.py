"""A page on a trained model, and pictures of training cases."""

from __future__ import annotations

import re
import shutil

from samunet.cli import plot_overlay_pngs, report


def test_the_page_shows_scores_pictures_curve_and_plan(environment, project, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))  # other tests compare the shared model with itself
    fold = project.train("1", results=tmp_path / "results")
    page = tmp_path / "page.html"
    assert report.main([project.dataset, "3d_adapter", "-o", str(page), "-np", "1"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"Mean foreground Dice \d\.\d{4} on \d validation case", said)
    assert f"Wrote pages of its worst cases to {tmp_path / 'view'}\n" in said
    images = project.workspace.raw / project.dataset / "imagesTs"
    assert f"Next: samunet_predict -d {project.dataset} -c 3d_adapter -i {images} -o PREDICTIONS" in said
    text = page.read_text()
    assert f"3d_adapter on {project.dataset}" in text and "Learning curve" in text and "patch" in text
    assert text.count("<img") >= 2 and "2d_adapter: patch" not in text
    links = re.findall(r"""(?:src|href)=["'](?!data:)(.*?)["']""", text)
    assert links and len(links) <= 3 and all(link.startswith("view/") for link in links)
    for link in links:
        view = (tmp_path / link).read_text(encoding="utf-8")
        assert '"name": "reference"' in view and '"name": "prediction"' in view

    alone = curves_in(text)
    other = shutil.copytree(fold, fold.with_name("fold_0"))
    first_epoch = (other / "log.jsonl").read_text().splitlines()[0]
    (other / "log.jsonl").write_text(first_epoch + "\n")
    assert report.main([project.dataset, "3d_adapter", "-o", str(page), "-np", "1"]) == 0
    text = page.read_text()
    both = curves_in(text)
    assert f"3d_adapter on {project.dataset}, folds 0, 1" in text and list(alone) == ["Fold 1"]
    assert list(both) == ["Fold 0", "Fold 1"] and both["Fold 1"] == alone["Fold 1"] != both["Fold 0"]
    (other / "log.jsonl").unlink()
    assert report.main([project.dataset, "3d_adapter", "-o", str(page), "-np", "1"]) == 0
    assert curves_in(page.read_text()) == alone


def curves_in(page: str) -> dict[str, str]:
    """Return the pictures of curves on a page, by their headings."""
    return dict(re.findall(r'<figure class="curve">\s*<h3>(.*?)</h3>\s*<img src="(.*?)"', page))


def test_an_unvalidated_model_says_what_to_do(environment, project, capsys):
    assert report.main([project.dataset, "3d_nothing"]) == 2
    expected = capsys.readouterr().err
    assert "holds no validation scores" in expected
    assert report.main(["3d_nothing", "-d", project.dataset]) == 2 and capsys.readouterr().err == expected


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
