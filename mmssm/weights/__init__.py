"""Weights: safe files, downloads, the official names, loading with a report."""

from mmssm.weights.download import DownloadError, fetch
from mmssm.weights.files import load_file, save_file, write_whole
from mmssm.weights.loading import (
    KeyReport,
    PretrainedOptions,
    adapt_in_channels,
    compare,
    load_weights,
    not_matching,
    read_options,
    read_weights,
)
from mmssm.weights.official import FAMILIES, detect_family, from_official, unwrap
from mmssm.weights.official.family import Family, StateDict
from mmssm.weights.released import RELEASED, Released, official_name

__all__ = [
    'RELEASED',
    'DownloadError',
    'FAMILIES',
    'Family',
    'KeyReport',
    'PretrainedOptions',
    'Released',
    'StateDict',
    'adapt_in_channels',
    'compare',
    'detect_family',
    'fetch',
    'from_official',
    'load_file',
    'load_weights',
    'not_matching',
    'official_name',
    'read_options',
    'read_weights',
    'save_file',
    'unwrap',
    'write_whole',
]
