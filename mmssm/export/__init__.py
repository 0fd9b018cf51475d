"""What leaves PyTorch: fused norms, programs of `torch.export`, ONNX files."""

from mmssm.export.fuse import fuse_for_inference
from mmssm.export.onnx import export_onnx
from mmssm.export.parity import Parity, compare_onnx, compare_program
from mmssm.export.program import export_program, save_program

__all__ = [
    'Parity',
    'compare_onnx',
    'compare_program',
    'export_onnx',
    'export_program',
    'fuse_for_inference',
    'save_program',
]
