"""Where the authors' checkpoints have always been read from; what reads them lives in `vipant.models.released`"""

from vipant.models.released import config, load

__all__ = ['config', 'load']
