"""The floor that speaks OpenMMLab: running, data checks, doctor, command lines."""
