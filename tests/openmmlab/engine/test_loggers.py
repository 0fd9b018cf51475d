"""Numbers of a training in other places than its own files."""

import pytest
from openmmlab.engine import tiny

from mmssm.openmmlab import cli

pytestmark = pytest.mark.filterwarnings('ignore')


def test_tensorboard_has_the_losses_of_every_iteration(tmp_path):
    pytest.importorskip('tensorboard')
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    tiny.write_data(tmp_path / 'data')
    config = tiny.write_config(tmp_path, 'segmentation')
    backends = "[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]"
    more = f"visualizer['vis_backends'] = {backends}\nexperiment_name = 'board'\n"
    config.write_text(config.read_text() + more)
    cli.train([str(config), '--work-dir', str(tmp_path / 'work')])
    (file,) = (tmp_path / 'work').glob('*/vis_data/events.out.tfevents.*')
    steps = [
        event.step
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
        if value.tag == 'loss'
    ]
    assert steps == [1, 2, 3, 4]
