"""Who is better, by how much, and shown how; nnU-Net run beside.

Who is better: `compare` scores two or more sets of predictions by one evaluator and sets them against each other in
pairs, `statistics` says how sure a difference is. `from_folders` finds the sets, in folders of predictions or in a
results tree, and says how they were made. `selection` joins the folds of models, ranks models and ensembles and marks
the best for prediction.

Shown how: `comparison_page` writes a comparison as a page and as tables, `score_page` the scores of one set of
predictions as a page, `report` fills it for a trained model and draws training cases; `curves` reads how trainings went
from their logs.

nnU-Net beside: `head_to_head` trains both tools on the same cases, for equally long, and compares them; `nnunet` runs
nnU-Net's commands; `timed` is the trainer that runs within nnU-Net, where a schedule of `samunet.training` hands out
its steps.
"""
