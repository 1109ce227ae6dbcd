"""Comparisons: grids of runs on processes or Ray, baselines, result files, tables and plots.

Each module has one purpose:

* `tasks`: one labelled run (`Task`), grids of them (`grid`), and settings as differences from the defaults;
* `executor`: run tasks resumably (`run_all`); a run that is done is read, one that was interrupted is resumed;
* `trials`: the same as trials of Ray Tune;
* `study`: a whole comparison (`Study`): tasks, what is recorded of a run, rows, table, figures;
* `measured`: a result that is measured without training runs (`Measurement`), accuracies on chips;
* `config_list`: run the list of configurations in a Python file;
* `results`: JSON result files with settings, commit and versions (`ResultFiles`);
* `command`: the command line of a result file;
* `shares`: recovery compared with a reference, and the images that a share needs;
* `tables`: grouped tables with mean and standard deviation, for the console or as Markdown;
* `plots`: figures as SVG files;
* `baselines`: a classifier of the fuse's own size, used instead of the target;
* `cells`: accuracy of one target on many chips, cached in files.
"""

from bbfuse.compare.executor import run_all
from bbfuse.compare.measured import Measurement
from bbfuse.compare.results import ResultFiles
from bbfuse.compare.study import Study
from bbfuse.compare.tasks import Outcome, Task, grid

__all__ = ["Measurement", "Outcome", "ResultFiles", "Study", "Task", "grid", "run_all"]
