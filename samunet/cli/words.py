"""The words of the command samunet, in the order of the work, and the modules they stand for."""

from __future__ import annotations

from samunet.errors import ConfigError, did_you_mean

MAP: dict[str, dict[str, str]] = {
    "Look at it first": {
        "demo": "the whole work on a phantom dataset, in five minutes",
        "info": "versions, folders, datasets, trained models and their cards, GPUs",
    },
    "Bring data in": {
        "import": "any folder of images and labels into nnU-Net's layout",
        "convert_MSD_dataset": "a dataset of the Medical Segmentation Decathlon",
        "check_dataset": "everything that is wrong with the files, and what to do about it",
        "plot_overlay_pngs": "pictures of images with their labels",
    },
    "Label": {
        "choose_cases": "which cases are worth labeling first",
        "annotate": "clicks, boxes and brushes in the browser, on images or a dataset's cases",
        "embed": "encode images for it beforehand",
        "serve": "the same for programs: 3D Slicer, napari, your own",
        "fewshot": "proposals for all images by one to ten labeled ones",
    },
    "Plan": {
        "plan_and_preprocess": "measure, decide spacing, patch and encoder grid, preprocess",
        "extract_fingerprint": "only measure",
        "plan_experiment": "only plan; --explain says why",
        "preprocess": "only preprocess",
        "move_plans_between_datasets": "use one dataset's plan for another",
        "weights": "SAM's checkpoints and samunet's own",
    },
    "Train": {
        "train": "train a fold, and go on after an interruption",
        "pretrain": "pretrain on procedural scenes, without any image",
        "find_best_configuration": "choose among trained models by their validation cases",
        "accumulate_crossval_results": "the scores of all folds together",
        "determine_postprocessing": "find out whether removing small pieces helps",
        "report": "a page on a trained model",
    },
    "Predict": {
        "predict": "segment images with the trained model",
        "predict_from_modelfolder": "the same with a model by its folder",
        "simulate_prompts": "clicks and boxes from references",
        "ensemble": "average the probabilities of several predictions",
        "apply_postprocessing": "apply what determine_postprocessing found",
        "frames": "predictions of videos as frames",
    },
    "Score": {
        "evaluate_folder": "Dice, surface distances and more of a folder of predictions",
        "evaluate_simple": "the same, with labels by their numbers",
        "compare": "which of several models is better, by how much; nnU-Net beside",
    },
    "Share": {
        "export_model_to_zip": "a trained model as one file",
        "install_pretrained_model_from_zip": "such a file on another machine",
        "ma_sam": "read checkpoints of MA-SAM's authors",
        "med_sa": "read checkpoints of Medical SAM Adapter's authors",
        "samed": "read checkpoints of SAMed's authors",
    },
}
"""The words in the order of the work."""
MODULES = {"import": "import_dataset", "convert_MSD_dataset": "convert_msd_dataset"}
COMPLETION = "completion"
SYNONYMS = {
    "predict": "segment segmentation infer inference prediction",
    "train": "fit learn finetune training",
    "plan_and_preprocess": "plan prepare preprocessing planning",
    "evaluate_folder": "eval evaluate score metrics evaluation validate",
    "annotate": "label click draw edit",
    "import": "import_dataset convert load add",
    "check_dataset": "check verify validate_dataset",
    "info": "list show status models datasets",
    "fewshot": "propose few_shot oneshot",
    "export_model_to_zip": "export zip share",
    "install_pretrained_model_from_zip": "install unzip",
    "find_best_configuration": "best find_best select",
    "weights": "download checkpoints",
}
"""What others call the work, by the word that it has here."""


def words() -> tuple[str, ...]:
    """Return all words, in the order of the work."""
    return tuple(word for part in MAP.values() for word in part)


def module_of(word: str) -> str:
    """Return the module of a word's command; raises ConfigError that names the nearest one where there is none."""
    if word not in words():
        raise ConfigError(f"There is no command '{word}'.{_nearest(word)} All: samunet --help")
    return f"samunet.cli.{MODULES.get(word, word)}"


def _nearest(word: str) -> str:
    """Return the command that a word may have meant, by its own name or by what others call it."""
    import difflib  # here, as errors are rare

    meant = {other: name for name, others in SYNONYMS.items() for other in others.split()}
    meant |= {name: name for name in words()}
    near = difflib.get_close_matches(word.lower(), meant, n=1, cutoff=0.6)
    return did_you_mean(meant[near[0]] if near else word, words())
