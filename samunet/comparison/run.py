"""The name by which commands still call `samunet.comparison.from_folders`."""

from samunet.comparison.from_folders import compare_folders as compare_folders
from samunet.comparison.from_folders import compare_trained as compare_trained
