"""How far samples are from data: distances, coverage, intervals, and the spaces to measure in.

`frechet_distance`, `sliced_wasserstein`, `energy_distance`, `mmd` and `coverage` measure two sets
of samples; `compare` measures several sets against held-out data, with bootstrap intervals, the
value of training data as the floor, and paired tests. `Pixels`, `classifier_features` and
`InceptionFeatures` are spaces to do it in.
"""

from .bootstrap import bootstrap_interval, bootstrap_test, resample_counts
from .classifier import Classifier, ClassifierFeatures, classifier_features
from .comparison import (
    FLOOR,
    LARGEST,
    METRICS,
    Comparison,
    Difference,
    Evaluation,
    Score,
    check_settings,
    compare,
)
from .distances import Distance, energy_distance, frechet_distance, mmd, sliced_wasserstein
from .features import Features, InceptionFeatures, Pixels
from .neighbours import Coverage, coverage

__all__ = [
    "FLOOR",
    "LARGEST",
    "METRICS",
    "Classifier",
    "ClassifierFeatures",
    "Comparison",
    "Coverage",
    "Difference",
    "Distance",
    "Evaluation",
    "Features",
    "InceptionFeatures",
    "Pixels",
    "Score",
    "bootstrap_interval",
    "bootstrap_test",
    "check_settings",
    "classifier_features",
    "compare",
    "coverage",
    "energy_distance",
    "frechet_distance",
    "mmd",
    "resample_counts",
    "sliced_wasserstein",
]
