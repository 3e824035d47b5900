"""The convolution that `kevolve_nvidia.cutedsl.renderer` writes: generated candidates carry this text, the
walk's and the support's. Not imported here: it needs CuTe DSL."""

from kevolve_nvidia.cutedsl.support import _call
from kevolve_nvidia.cutedsl.walk import first_sum, laid_at, sum_at, taken_at

# isort: split
# --- carried by generated candidates from here on ---
import cutlass
import cutlass.cute as cute
import torch
from cuda.bindings import driver as cuda
from cutlass import pipeline, utils
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, warpgroup
from cutlass.utils import hopper_helpers as hopper


class _Tf32Products(warpgroup.MmaF16BF16Op):
    """wgmma of float32 operands, of which tensor cores see 10 bits behind the point (TF32)."""

    def _verify(self):
        pass


class HopperConvolution:
    """D = epilogue(convolution of an image with channels last by filters), by tensor cores.

    A persistent kernel. One warp copies boxes of the image and tiles of the filters into two rings in shared
    memory (TMA, which reads zeros outside of the image, and rounds float32 to TF32). Warpgroups multiply
    them (wgmma) and store what the epilogue makes of the sums. Clusters of blocks with neighbouring pixels
    share the filters (multicast).

    walk: a `ConvolutionWalk`. depth: input channels of a step. copies, stages: of the image and the filters
    in flight. clusters: how many there are. element: what is multiplied. taken: input channels, neighbours in
    memory of both operands. extents, image: the image's size and strides of (x, y, z, image). filters: the
    filters' strides of (output channel, tap). d: strides of (x, y, z, image, channel); where the channel's is
    1, or a tile has less channels than wgmma has rows, rows of the products are pixels, else they are
    channels. vector: neighbouring results that are stored together. constants(channel, more) is what the
    epilogue needs once a channel; epilogue(value, constants, x, y, z, image, channel, more).
    """

    def __init__(
        self, walk, depth, copies, stages, clusters, element, taken, extents, image, filters, d, constants,
        epilogue, vector=1,
    ):  # fmt: skip
        self.walk, self.depth, self.copies, self.stages = walk, depth, copies, stages
        self.clusters, self.element, self.taken = clusters, element, taken
        self.kept = cutlass.Float32 if element is cutlass.TFloat32 else element
        self.extents, self.image, self.filters, self.d = extents, image, filters, d
        self.constants, self.epilogue, self.vector = constants, epilogue, vector
        self.last, self.by_pixels = d[4] == 1, d[4] == 1 or walk.tile < 64
        self.tile = (walk.pixels, walk.tile) if self.by_pixels else (walk.tile, walk.pixels)
        self.warpgroups = 2 if self.tile[0] > 64 else 1
        self.steps = -(-taken // depth) * walk.copies

    @cute.jit
    def __call__(
        self, image: cute.Tensor, filters: cute.Tensor, d: cute.Tensor, more: tuple, stream: cuda.CUstream
    ):
        """All tensors as one dimension each."""
        walk = self.walk
        box, taps = walk.copied, walk.taps[0] * walk.taps[1] * walk.taps[2]
        image = cute.make_tensor(
            image.iterator, cute.make_layout((self.extents, self.taken), stride=(self.image, 1))
        )
        filters = cute.make_tensor(
            filters.iterator,
            cute.make_layout((walk.filters, self.taken, taps), stride=(self.filters[0], 1, self.filters[1])),
        )
        order = utils.LayoutEnum.ROW_MAJOR
        height = box[0] * box[1] * box[2] * box[3]
        image_layout = hopper.make_smem_layout_a(order, (height, 8, self.depth), self.kept, self.copies)
        filter_layout = hopper.make_smem_layout_a(order, (walk.tile, 8, self.depth), self.kept, self.stages)
        own = cpasync.CopyBulkTensorTileG2SOp()
        shared = own if walk.cluster == 1 else cpasync.CopyBulkTensorTileG2SMulticastOp()
        kind = self.element if self.element is cutlass.TFloat32 else None
        image_copy, image_tiles = cpasync.make_tiled_tma_atom(
            own,
            image,
            image_layout,
            (box, self.depth),
            internal_type=kind,
        )
        filter_copy, filter_tiles = cpasync.make_tiled_tma_atom(
            shared,
            filters,
            filter_layout,
            (walk.tile, self.depth),
            num_multicast=walk.cluster,
            internal_type=kind,
        )
        clusters = min(self.clusters, walk.tiles)
        self.kernel(
            image_copy, image_tiles, filter_copy, filter_tiles, d, more, self.products(), image_layout,
            filter_layout,
        ).launch(
            grid=(clusters * walk.cluster, 1, 1),
            block=(128 * (1 + self.warpgroups), 1, 1),
            cluster=(walk.cluster, 1, 1),
            min_blocks_per_mp=1,
            stream=stream,
        )  # fmt: skip

    def products(self):
        """The instruction."""
        shape, major = (64, self.tile[1]), OperandMajorMode.K
        if self.element is cutlass.TFloat32:
            source = warpgroup.OperandSource.SMEM
            op = _Tf32Products(self.element, cutlass.Float32, (*shape, 8), source, major, major)
            return cute.make_tiled_mma(cute.make_mma_atom(op), (self.warpgroups, 1, 1))
        return hopper.make_trivial_tiled_mma(
            self.element, self.element, major, major, cutlass.Float32, (self.warpgroups, 1, 1), shape
        )

    @cute.kernel
    def kernel(
        self,
        image_copy: cute.CopyAtom,
        image_tiles: cute.Tensor,
        filter_copy: cute.CopyAtom,
        filter_tiles: cute.Tensor,
        d: cute.Tensor,
        more: tuple,
        add: cute.TiledMma,
        image_layout: cute.ComposedLayout,
        filter_layout: cute.ComposedLayout,
    ):
        thread, _, _ = cute.arch.thread_idx()
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        rank = cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster())
        if warp == 0:
            cpasync.prefetch_descriptor(image_copy)
            cpasync.prefetch_descriptor(filter_copy)

        @cute.struct
        class Storage:
            image_barriers: cute.struct.MemRange[cutlass.Int64, self.copies * 2]
            filter_barriers: cute.struct.MemRange[cutlass.Int64, self.stages * 2]
            image_slots: cute.struct.Align[cute.struct.MemRange[self.kept, cute.cosize(image_layout)], 1024]
            sums: cute.struct.Align[cute.struct.MemRange[cutlass.Float32, self.warpgroups * 4 * 8 * 72], 1024]
            filter_slots: cute.struct.Align[cute.struct.MemRange[self.kept, cute.cosize(filter_layout)], 1024]

        storage = utils.SmemAllocator().allocate(Storage)
        image_shared = storage.image_slots.get_tensor(image_layout.outer, swizzle=image_layout.inner)
        filter_shared = storage.filter_slots.get_tensor(filter_layout.outer, swizzle=filter_layout.inner)
        warps = self.warpgroups * 4
        cluster = cute.make_layout((1, self.walk.cluster, 1, 1))
        bytes_deep = self.depth * self.element.width // 8
        image_ring = pipeline.PipelineTmaAsync.create(
            barrier_storage=storage.image_barriers.data_ptr(),
            num_stages=self.copies,
            producer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread),
            consumer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, warps),
            tx_count=cute.size(image_layout, mode=[0]) * bytes_deep,
            cta_layout_vmnk=cluster,
            mcast_mode_mn=(1, 0),  # a block's image is its own
            defer_sync=True,
        )
        filter_ring = pipeline.PipelineTmaAsync.create(
            barrier_storage=storage.filter_barriers.data_ptr(),
            num_stages=self.stages,
            producer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread),
            consumer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, warps * self.walk.cluster),
            tx_count=self.walk.tile * bytes_deep,
            cta_layout_vmnk=cluster,
            defer_sync=True,
        )
        pipeline.pipeline_init_arrive(cluster_shape_mn=(self.walk.cluster, 1), is_relaxed=True)
        filter_into, filter_from = cpasync.tma_partition(
            filter_copy,
            rank,
            cute.make_layout(self.walk.cluster),
            cute.group_modes(filter_shared, 0, 2),
            cute.group_modes(
                cute.local_tile(filter_tiles, (self.walk.tile, self.depth), (None, None, None)), 0, 2
            ),
        )
        first = cute.arch.block_idx()[0] // self.walk.cluster
        stride = cute.arch.grid_dim()[0] // self.walk.cluster
        pipeline.pipeline_init_wait(cluster_shape_mn=(self.walk.cluster, 1))

        # 65536 registers: 40 a thread for the group that copies leave 232 for each of two that multiply.
        if cutlass.const_expr(self.warpgroups == 2):  # noqa: SIM102, one is known when it is compiled
            if warp < 4:
                cute.arch.setmaxregister_decrease(40)
        if warp == 0:
            copied = pipeline.make_pipeline_state(pipeline.PipelineUserType.Producer, self.copies)
            staged = pipeline.make_pipeline_state(pipeline.PipelineUserType.Producer, self.stages)
            for place in cutlass.range(first, self.walk.tiles, stride, unroll=1):
                channel, pixel = self.walk.at(place, rank)
                for step in cutlass.range(self.steps, unroll=1):
                    block, copy = step // self.walk.copies, step % self.walk.copies
                    image_ring.producer_acquire(copied)
                    moved = cute.domain_offset(
                        (self.walk.corner(pixel, copy), block * self.depth), image_tiles
                    )
                    image_into, image_from = cpasync.tma_partition(
                        image_copy,
                        0,
                        cute.make_layout(1),
                        cute.group_modes(image_shared, 0, 2),
                        cute.group_modes(
                            cute.local_tile(moved, (self.walk.copied, self.depth), ((0, 0, 0, 0), 0)), 0, 2
                        ),
                    )
                    cute.copy(
                        image_copy,
                        image_from,
                        image_into[(None, copied.index)],
                        tma_bar_ptr=image_ring.producer_get_barrier(copied),
                    )
                    image_ring.producer_commit(copied)
                    copied.advance()
                    for row in cutlass.range_constexpr(self.walk.shared):
                        filter_ring.producer_acquire(staged)
                        cute.copy(
                            filter_copy,
                            filter_from[(None, channel // self.walk.tile, block, self.walk.tap(copy, row))],
                            filter_into[(None, staged.index)],
                            tma_bar_ptr=filter_ring.producer_get_barrier(staged),
                            mcast_mask=cutlass.Int16((1 << self.walk.cluster) - 1),
                        )
                        filter_ring.producer_commit(staged)
                        staged.advance()
            image_ring.producer_tail(copied)
            filter_ring.producer_tail(staged)
        if warp >= 4:
            if cutlass.const_expr(self.warpgroups == 2):
                cute.arch.setmaxregister_increase(232)
            group = cute.arch.make_warp_uniform(thread // 128) - 1
            part_of = add.get_slice(cute.make_layout(self.warpgroups, stride=128)(group))
            images, filters = self.operands(part_of, add, storage, image_layout, filter_layout)
            add.set(warpgroup.Field.ACCUMULATE, True)
            shape = add.get_slice(0).partition_C(cute.make_identity_tensor(self.tile)).shape
            total = cute.make_rmem_tensor(shape, cutlass.Float32)
            # Rows of 72, and of 20: what a warp lays down at once lies in different banks.
            kept = storage.sums.get_tensor(
                cute.make_layout((self.warpgroups * 4, 8, 2, 36), stride=(8 * 72, 72, 1, 2))
                if self.by_pixels == self.last
                else cute.make_layout((self.warpgroups * 4, 16, 2, 10), stride=(8 * 72, 20, 1, 2))
            )
            consumer = pipeline.PipelineUserType.Consumer
            image_read = pipeline.make_pipeline_state(consumer, self.copies)
            image_free = pipeline.make_pipeline_state(consumer, self.copies)
            filter_read = pipeline.make_pipeline_state(consumer, self.stages)
            filter_free = pipeline.make_pipeline_state(consumer, self.stages)
            for place in cutlass.range(first, self.walk.tiles, stride, unroll=1):
                channel, pixel = self.walk.at(place, rank)
                total.fill(0.0)
                for step in cutlass.range(self.steps, unroll=1):
                    image_ring.consumer_wait(image_read)
                    for row in cutlass.range_constexpr(self.walk.shared):
                        filter_ring.consumer_wait(filter_read)
                        self.multiply(add, images, filters, total, row, image_read.index, filter_read.index)
                        filter_read.advance()
                        # What the products before these read is free; a tile's first have none before them.
                        if cutlass.const_expr(row > 0):
                            filter_ring.consumer_release(filter_free)
                            filter_free.advance()
                        else:
                            if step > 0:
                                filter_ring.consumer_release(filter_free)
                                filter_free.advance()
                                image_ring.consumer_release(image_free)
                                image_free.advance()
                    image_read.advance()
                warpgroup.wait_group(0)
                filter_ring.consumer_release(filter_free)
                filter_free.advance()
                image_ring.consumer_release(image_free)
                image_free.advance()
                if cutlass.const_expr(self.by_pixels == self.last):
                    self.store(d, more, total, kept, thread - 128, channel, pixel)
                else:
                    self.store_turned(d, more, total, kept, thread - 128, channel, pixel)

    def operands(self, part_of, add, storage, image_layout, filter_layout):
        """What the instruction reads: (…, block of depth, row of taps, copy) of the image, (…, block of
        depth, stage) of the filters. Rows of taps are views of one copy, a multiple of 8 pixels apart."""
        walk, k = self.walk, self.depth
        rows = cute.make_layout(
            ((8, walk.pixels // 8), (k, 1), walk.shared, self.copies),
            stride=((k, 8 * k), (1, 0), walk.skipped(1) * k, cute.size(image_layout, mode=[0]) * k),
        )
        image = storage.image_slots.get_tensor(rows, swizzle=image_layout.inner, dtype=self.element)
        filters = storage.filter_slots.get_tensor(
            filter_layout.outer, swizzle=filter_layout.inner, dtype=self.element
        )
        if self.by_pixels:
            return (
                add.make_fragment_A(part_of.partition_A(image)),
                add.make_fragment_B(part_of.partition_B(filters)),
            )
        return (
            add.make_fragment_B(part_of.partition_B(image)),
            add.make_fragment_A(part_of.partition_A(filters)),
        )

    @cute.jit
    def multiply(self, add, images, filters, total, row, copy, stage):
        """One tap of one block of channels. On return everything has ended but these products."""
        warpgroup.fence()
        for block in cutlass.range_constexpr(cute.size(images, mode=[2])):
            image = images[(None, None, block, row, copy)]
            taken = filters[(None, None, block, stage)]
            cute.gemm(
                add,
                total,
                image if self.by_pixels else taken,
                taken if self.by_pixels else image,
                total,
            )
        warpgroup.commit_group()
        warpgroup.wait_group(1)

    @cute.jit
    def store(self, d, more, total, kept, thread, channel, pixel):
        """The epilogue. A warp lays 8 rows by 64 columns of sums into its part of ``kept`` and takes them out
        row by row, so that a store has neighbours of one row alone."""
        rows, columns = self.tile
        lane, own = thread % 32, kept[(cute.arch.thread_idx()[0] // 32 - 4, None, None, None)]
        first_row, first_column = first_sum(thread)
        for block in cutlass.range_constexpr(rows // (64 * self.warpgroups)):
            for chunk in cutlass.range_constexpr(columns // 64):
                for half in cutlass.range_constexpr(2):
                    for eight in cutlass.range_constexpr(8):
                        pair = cute.make_rmem_tensor(2, cutlass.Float32)
                        at = sum_at(block, half, chunk * 8 + eight, columns)
                        pair[0], pair[1] = total[at], total[at + 1]
                        cute.autovec_copy(pair, own[(lane // 4, None, eight * 4 + first_column // 2)])
                    cute.arch.sync_warp()
                    top = first_row - lane // 4 + block * 64 * self.warpgroups + half * 8
                    for row in cutlass.range(8, unroll=4):
                        taken = cute.make_rmem_tensor(2, cutlass.Float32)
                        cute.autovec_copy(own[(row, None, lane)], taken)
                        self.put(d, more, taken, top + row, chunk * 64 + lane * 2, channel, pixel)
                    cute.arch.sync_warp()

    @cute.jit
    def store_turned(self, d, more, total, kept, thread, channel, pixel):
        """The epilogue where rows of products are pixels and neighbours of the result are pixels, too: a warp
        lays down 16 pixels by 16 channels of sums and takes them out channel by channel."""
        rows, columns = self.tile
        lane, own = thread % 32, kept[(cute.arch.thread_idx()[0] // 32 - 4, None, None, None)]
        first_row, _ = first_sum(thread)
        for block in cutlass.range_constexpr(rows // (64 * self.warpgroups)):
            top = first_row - lane // 4 + block * 64 * self.warpgroups
            for chunk in cutlass.range_constexpr(columns // 16):
                for half in cutlass.range_constexpr(2):
                    for eight in cutlass.range_constexpr(2):
                        at = sum_at(block, half, chunk * 2 + eight, columns)
                        row, across = laid_at(lane, half, eight)
                        for j in cutlass.range_constexpr(2):
                            own[(row + j, across % 2, across // 2)] = total[at + j]
                cute.arch.sync_warp()
                for four in cutlass.range_constexpr(4):
                    row, across = taken_at(lane, four)
                    taken = cute.make_rmem_tensor(2, cutlass.Float32)
                    cute.autovec_copy(own[(row, None, across // 2)], taken)
                    self.put(d, more, taken, chunk * 16 + row, top + across, channel, pixel)
                cute.arch.sync_warp()

    @cute.jit
    def put(self, d, more, pair, row, column, channel, pixel):
        """Two results beside one another, together where ``vector`` says so: ``row`` is a tile's pixel and
        ``column`` its channel where channels are neighbours in memory, else the other way round."""
        sx, sy, sz, sn, sc = self.d
        for j in cutlass.range_constexpr(0, 2, self.vector):
            across = column + j
            x, y, z, n = self.walk.pixel(row if self.last else across)
            x, y, z, n = pixel[0] + x, pixel[1] + y, pixel[2] + z, pixel[3] + n
            c = channel + (across if self.last else row)
            if (c < self.walk.filters) & self.walk.inside(x, y, z, n):
                values = cute.make_rmem_tensor(self.vector, d.element_type)
                for k in cutlass.range_constexpr(self.vector):
                    beside = (c + k, x) if self.last else (c, x + k)
                    known = self.constants(beside[0], more)
                    value = self.epilogue(pair[j + k], known, beside[1], y, z, n, beside[0], more)
                    values[k] = d.element_type(value)
                place = cute.assume(x * sx + y * sy + z * sz + n * sn + c * sc, divby=self.vector)
                out = cute.make_tensor(d.iterator + place, cute.make_layout(self.vector))
                cute.autovec_copy(values, out)


@cute.kernel
def _last_kernel(x: cute.Tensor, y: cute.Tensor):
    """Moves the middle of three dimensions to the end: each store has 16 bytes of neighbouring channels."""
    _, channels, pixels = x.shape
    vector = 128 // x.element_type.width
    thread = cute.arch.thread_idx()[0]
    wide, high = cute.ceil_div(pixels, 128), cute.ceil_div(channels, 8 * vector)
    block = cute.arch.block_idx()[0]
    o, c, p = block // (wide * high), block // wide % high * 8 * vector, block % wide * 128
    # Vectors of a pixel lie in an order by which neither half of the way has conflicts of banks.
    shared = utils.SmemAllocator().allocate_tensor(
        x.element_type, cute.make_layout((128, 8, vector), stride=(8 * vector, vector, 1)), 128
    )
    pixel = thread % 128
    for k in cutlass.range_constexpr(4):
        part = thread // 128 + 2 * k
        kept = cute.make_rmem_tensor(vector, x.element_type)
        kept.fill(0.0)
        if p + pixel < pixels and c + part * vector < channels:
            for j in cutlass.range_constexpr(vector):
                kept[j] = x[(o, c + part * vector + j, p + pixel)]
        cute.autovec_copy(kept, shared[(pixel, part ^ (pixel % 8), None)])
    cute.arch.sync_threads()
    for k in cutlass.range_constexpr(4):
        pixel, part = thread // 8 + 32 * k, thread % 8
        if p + pixel < pixels and c + part * vector < channels:
            kept = cute.make_rmem_tensor(vector, x.element_type)
            cute.autovec_copy(shared[(pixel, part ^ (pixel % 8), None)], kept)
            cute.autovec_copy(kept, y[(o, p + pixel, (None, c // vector + part))])


class _Last:
    """The launch of `_last_kernel`. shape: (outer, channels, inner). steps: strides of (outer, inner) in what
    is made, whose channels are neighbours."""

    def __init__(self, shape, steps):
        self.shape, self.steps = shape, steps

    @cute.jit
    def __call__(self, x: cute.Tensor, y: cute.Tensor, stream: cuda.CUstream):
        outer, channels, inner = self.shape
        vector = 128 // x.element_type.width
        x = cute.make_tensor(x.iterator, cute.make_layout(self.shape, stride=(channels * inner, inner, 1)))
        y = cute.make_tensor(
            y.iterator,
            cute.make_layout((outer, inner, (vector, channels // vector)), stride=(*self.steps, (1, vector))),
        )
        blocks = outer * cute.ceil_div(channels, 8 * vector) * cute.ceil_div(inner, 128)
        _last_kernel(x, y).launch(grid=(blocks, 1, 1), block=(256, 1, 1), stream=stream)


def _channels_last(tensor, shape, steps):
    """``tensor``, flat and of ``shape`` (outer, channels, inner), with channels as the fastest dimension."""
    out = torch.empty_like(tensor)
    _call(("last", shape, steps, tensor.dtype), _Last(shape, steps), tensor, out)
    return out
