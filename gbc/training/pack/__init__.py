"""Several trials at once on one device: their tensors are stacked, so that K trials cost about the launches of one.

A member is a `Trainer`, which starts it, draws its batches and makes its reports. While a pack steps, parameters, buffers and
Adam's moments of all members are rows of common tensors; what is asked of one member is handed back to its trainer first.
Members never meet: every product is a batched one, and the gradient of a sum over members is each member's own.
"""

from gbc.training.pack.members import Member, Pack, key

__all__ = ["Member", "Pack", "key"]
