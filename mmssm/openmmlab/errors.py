"""Mistakes of the user and missing packages, told apart from bugs."""


class UserError(Exception):
    """What the user can put right; the commands show its text without a traceback."""

    status = 1


class MissingPackage(UserError):
    """A package that is not installed; the text says how to install it."""

    status = 2

    def __init__(self, module: str) -> None:
        super().__init__(
            f"the module {module} is not installed; pip install '{INSTALLS[module]}' "
            'installs all that is needed'
        )


# module -> what brings it
INSTALLS = {
    **dict.fromkeys(('torch', 'numpy'), 'mmssm'),
    **dict.fromkeys(
        ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'cv2', 'pycocotools', 'PIL'),
        'mmssm[onedl]',
    ),
    'gdown': 'mmssm[download]',
    'safetensors': 'mmssm[safetensors]',
}
