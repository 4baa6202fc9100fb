"""The authors' C++ program: the settings that it reads, and the weights that it saves.

===========  ====================================================
`settings`   its configuration files (.csv), as settings of this package
`weights`    the weights that it saves (.npz), as a network of this package
===========  ====================================================
"""

from slide.reference.settings import Reference, read

__all__ = ["Reference", "read"]
