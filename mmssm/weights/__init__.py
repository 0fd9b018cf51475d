"""Weights: reading files safely, the official names, loading with a report."""

from mmssm.weights.files import load_file, save_file
from mmssm.weights.loading import (
    KeyReport,
    compare,
    load_weights,
    not_matching,
    read_weights,
)
from mmssm.weights.official import FAMILIES, detect_family, from_official, unwrap
from mmssm.weights.official.family import Family, StateDict

__all__ = [
    'FAMILIES',
    'Family',
    'KeyReport',
    'StateDict',
    'compare',
    'detect_family',
    'from_official',
    'load_file',
    'load_weights',
    'not_matching',
    'read_weights',
    'save_file',
    'unwrap',
]
