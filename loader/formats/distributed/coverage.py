"""Whether boxes cover a tensor exactly once.

Guarantees: by arithmetic on their corners alone, in time that grows with the number of boxes as parallel training lays
them out; a layout that would take longer is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Where its first element stands, and its shape."""
_STEPS_PER_BOX = 64
"""A grid takes one per dimension; the rest is for grids whose lines do not meet."""


def fault_of_cover(shape: tuple[int, ...], boxes: Sequence[Box]) -> str:
    """Says what is wrong with the pieces of a tensor; empty where they cover it exactly once.

    Args:
        shape: The tensor's.
        boxes: None of them empty.
    """
    if 0 in shape:
        return "are more than the tensor, which is empty" if boxes else ""
    for start, size in boxes:
        if len(start) != len(shape) or len(size) != len(shape):
            return "have another number of dimensions than the tensor"
        if any(first + length > whole for first, length, whole in zip(start, size, shape, strict=True)):
            return f"lie outside of its shape {list(shape)}"
    if len(boxes) == 1 and boxes[0][1] == shape:
        return ""
    return _Sweep(shape, _STEPS_PER_BOX * (len(boxes) + len(shape))).fault(list(boxes), 0)


class _Sweep:
    """Cuts along one dimension after the other wherever a box begins or ends."""

    def __init__(self, shape: tuple[int, ...], steps: int) -> None:
        self.shape = shape
        self.steps = steps

    def fault(self, boxes: list[Box], dimension: int) -> str:
        """What is wrong with the boxes of one slice, from a dimension on."""
        if len(boxes) != 1 and (not boxes or dimension == len(self.shape)):
            return "overlap" if boxes else "leave a gap"
        if dimension == len(self.shape):
            return ""
        boxes.sort(key=lambda box: box[0][dimension])
        cuts = sorted({0, self.shape[dimension], *(end for b in boxes for end in _ends(b, dimension))})
        waiting, active = iter(boxes), list[Box]()
        following = next(waiting, None)
        for cut in cuts[:-1]:
            active = [box for box in active if _ends(box, dimension)[1] > cut]
            while following is not None and following[0][dimension] <= cut:
                active.append(following)
                following = next(waiting, None)
            self.steps -= max(1, len(active))
            if self.steps < 0:
                return "lie in more layers than any way of splitting tensors makes"
            fault = self.fault(list(active), dimension + 1)
            if fault:
                return fault
        return ""


def _ends(box: Box, dimension: int) -> tuple[int, int]:
    return box[0][dimension], box[0][dimension] + box[1][dimension]
