"""How the convolution in CuTe DSL walks its tiles: plain arithmetic, which generated candidates carry and the
tests run on a CPU."""

# --- carried by generated candidates from here on ---
from typing import Any, NamedTuple


class ConvolutionWalk(NamedTuple):
    """Which results a tile of a convolution has, and what it reads for them.

    A tile is ``tile`` output channels by the pixels of a ``box``. For every tap of the filter it reads a box
    of the image, displaced; where ``shared`` is over 1, that many taps above one another (all of a column)
    read one copy of a higher box. Sizes are (width, height, depth), positions (x, y, z, image). The numbers
    that methods are given may be CuTe DSL's.

    filters, images: output channels and images. result: pixels of one image's result. taps, padding,
    dilation: of the filter; a negative padding leaves out an edge of the image. box: pixels of a tile, powers
    of two, the width at least 8. cluster: blocks side by side that share filters. mirrored: the filters lie
    mirrored in space, as a transposed convolution reads them: its last tap in memory is the walk's first.
    """

    filters: int
    images: int
    result: tuple[int, int, int]
    taps: tuple[int, int, int]
    padding: tuple[int, int, int]
    dilation: tuple[int, int, int]
    tile: int
    box: tuple[int, int, int, int]
    cluster: int = 1
    shared: int = 1
    mirrored: bool = False

    @property
    def pixels(self) -> int:
        """Pixels of a tile."""
        return self.box[0] * self.box[1] * self.box[2] * self.box[3]

    @property
    def copied(self) -> tuple[int, int, int, int]:
        """The box of one copy of the image."""
        rows = self.box[1] + (self.shared - 1) * self.dilation[1]
        return (self.box[0], rows, self.box[2], self.box[3])

    @property
    def copies(self) -> int:
        """Copies of the image a tile and block of input channels."""
        return self.taps[0] * self.taps[1] * self.taps[2] // self.shared

    @property
    def rows(self) -> int:
        """Tiles of output channels."""
        return -(-self.filters // self.tile)

    @property
    def boxes(self) -> tuple[int, int, int, int]:
        """Boxes of pixels in each direction."""
        (w, h, d), (x, y, z, n) = self.result, self.box
        return (-(-w // x), -(-h // y), -(-d // z), -(-self.images // n))

    @property
    def tiles(self) -> int:
        """Tiles of a cluster's blocks together."""
        x, y, z, n = self.boxes
        return self.rows * -(-(x * y * z * n) // self.cluster)

    def at(self, place: Any, rank: Any) -> tuple[Any, tuple[Any, Any, Any, Any]]:
        """First output channel and pixel of block ``rank`` in tile number ``place``."""
        box = place // self.rows * self.cluster + rank
        x, y, z, _ = self.boxes
        x, y, z, n = box % x, box // x % y, box // (x * y) % z, box // (x * y * z)
        first = (x * self.box[0], y * self.box[1], z * self.box[2], n * self.box[3])
        return place % self.rows * self.tile, first

    def corner(self, first: Any, copy: Any) -> tuple[Any, Any, Any, Any]:
        """Where copy number ``copy`` of the image begins for a tile at ``first``; it may lie outside."""
        x, y, z = self._tap(copy)
        near, far = self.padding, self.dilation
        return (
            first[0] + x * far[0] - near[0],
            first[1] + y * far[1] - near[1],
            first[2] + z * far[2] - near[2],
            first[3],
        )

    def tap(self, copy: Any, row: int) -> Any:
        """Number of the filter's tap in memory, in the order (depth, height, width), for row ``row`` of a
        copy. Mirrored in every direction, the order is reversed as a whole."""
        x, y, z = self._tap(copy)
        place = (z * self.taps[1] + y + row) * self.taps[0] + x
        return self.taps[0] * self.taps[1] * self.taps[2] - 1 - place if self.mirrored else place

    def skipped(self, row: int) -> int:
        """Pixels of a copy before those that its row ``row`` of taps reads."""
        return row * self.dilation[1] * self.box[0]

    def pixel(self, i: Any) -> tuple[Any, Any, Any, Any]:
        """Where pixel ``i`` of a tile lies in its box. Each coordinate is a field of bits of ``i``, so that
        of ``i + j`` is the sum of both where they have no bit in common."""
        x, y, z, _ = self.box
        return (i % x, i // x % y, i // (x * y) % z, i // (x * y * z))

    def inside(self, x: Any, y: Any, z: Any, image: Any) -> Any:
        """Whether the result has this pixel."""
        w, h, d = self.result
        return (x < w) & (y < h) & (z < d) & (image < self.images)

    def _tap(self, copy: Any) -> tuple[Any, Any, Any]:
        wide, high = self.taps[0], self.taps[1] // self.shared
        return (copy % wide, copy // wide % high, copy // (wide * high))


def first_sum(thread: Any) -> tuple[Any, Any]:
    """Row and column of the first sum that a multiplying thread has (PTX ISA, wgmma: accumulators)."""
    return thread // 128 * 64 + thread // 32 % 4 * 16 + thread % 32 // 4, thread % 4 * 2


def sum_at(block: int, half: int, eight: int, columns: int) -> int:
    """Number of its sum that lies ``block`` blocks of all warpgroups' rows and ``half`` times 8 rows below
    the first and ``eight`` times 8 columns beside it, in a tile of ``columns``; the next is its neighbour."""
    return block * (columns // 2) + eight * 4 + half * 2


def laid_at(lane: Any, half: int, eight: int) -> tuple[Any, Any]:
    """(column, row) among a warp's 16 rows by 16 columns of the sum that `sum_at` numbers; the next sum's is
    the next column."""
    return lane % 4 * 2 + eight * 8, lane // 4 + half * 8


def taken_at(lane: Any, four: int) -> tuple[Any, Any]:
    """(column, row) of the pair of rows that a lane takes out of these in turn number ``four`` of 4."""
    return four * 4 + lane // 8, lane % 8 * 2
