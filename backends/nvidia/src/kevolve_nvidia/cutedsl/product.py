"""The product that `kevolve_nvidia.cutedsl.renderer` writes: generated candidates carry this text and are
run by it and the support alone. Not imported here: it needs CuTe DSL."""

from kevolve_nvidia.cutedsl.support import _call

# isort: split
# --- carried by generated candidates from here on ---
import cutlass
import cutlass.cute as cute
import torch
from cuda.bindings import driver as cuda
from cutlass import pipeline, utils
from cutlass.cute.nvgpu import cpasync, warpgroup
from cutlass.utils import hopper_helpers as hopper


class HopperProduct:
    """D[m, n, l] = epilogue(sum over k of A[m, k, l] * B[n, k, l]), by tensor cores.

    A persistent kernel: one warp copies tiles into a ring in shared memory (TMA), one or two warpgroups
    multiply them (wgmma), and clusters of blocks below one another share the tiles of B (multicast).

    With ``parts`` over 1 each operand is the sum of so many tensors, and ``pairs`` says which of their
    products are added. Tensor cores cut off low bits where they add to a large sum, so the first pair is
    summed over one tile's depth only and then added to a float32 total while the other pairs run; those are
    so much smaller that they keep one running sum.

    tile: rows, columns and depth. stages: tiles in flight. cluster: blocks that share. group: rows of
    clusters that walk their columns together. clusters: how many there are. a, b: (shape, strides) of (m or
    n, k, parts x batch), in elements. d: the same of (m, n, batch), rows contiguous. epilogue(value, row,
    column, slab, more).
    """

    def __init__(
        self, tile, stages, cluster, group, clusters, element, a, b, d, epilogue, parts=1, pairs=((0, 0),)
    ):
        self.tile, self.stages, self.cluster = tile, stages, cluster
        self.group, self.clusters, self.element = group, clusters, element
        self.a, self.b, self.d, self.epilogue = a, b, d, epilogue
        self.parts, self.pairs = parts, pairs
        self.warpgroups = 1 if tile[0] == 64 else 2
        self.rows = -(-d[0][0] // (tile[0] * cluster))
        self.columns = -(-d[0][1] // tile[1])
        self.steps = -(-a[0][1] // tile[2])

    @cute.jit
    def __call__(self, a: cute.Tensor, b: cute.Tensor, d: cute.Tensor, more: tuple, stream: cuda.CUstream):
        """``a``, ``b``, ``d`` and ``more`` as one dimension each."""
        m, n, k = self.tile
        a = cute.make_tensor(a.iterator, cute.make_layout(self.a[0], stride=self.a[1]))
        b = cute.make_tensor(b.iterator, cute.make_layout(self.b[0], stride=self.b[1]))
        d = cute.make_tensor(d.iterator, cute.make_layout(self.d[0], stride=self.d[1]))
        orders = [
            utils.LayoutEnum.ROW_MAJOR if strides[1] == 1 else utils.LayoutEnum.COL_MAJOR
            for _, strides in (self.a, self.b)
        ]
        slots = self.stages * self.parts
        a_layout = hopper.make_smem_layout_a(orders[0], self.tile, self.element, slots)
        b_layout = hopper.make_smem_layout_b(orders[1], self.tile, self.element, slots)
        modes = [order.sm90_mma_major_mode() for order in orders]
        begin, add = [
            hopper.make_trivial_tiled_mma(
                self.element, self.element, *modes, cutlass.Float32, (self.warpgroups, 1, 1), (64, n)
            )
            for _ in range(2)
        ]
        own = cpasync.CopyBulkTensorTileG2SOp()
        shared = own if self.cluster == 1 else cpasync.CopyBulkTensorTileG2SMulticastOp()
        a_slot, b_slot = (cute.slice_(layout, (None, None, 0)) for layout in (a_layout, b_layout))
        a_copy, a_tiles = cpasync.make_tiled_tma_atom(own, a, a_slot, (m, k))
        b_copy, b_tiles = cpasync.make_tiled_tma_atom(shared, b, b_slot, (n, k), num_multicast=self.cluster)
        clusters = min(self.clusters, self.rows * self.columns * self.d[0][2])
        self.kernel(a_copy, a_tiles, b_copy, b_tiles, d, more, begin, add, a_layout, b_layout).launch(
            grid=(clusters * self.cluster, 1, 1),
            block=(128 * (1 + self.warpgroups), 1, 1),
            cluster=(self.cluster, 1, 1),
            min_blocks_per_mp=1,
            stream=stream,
        )

    @cute.kernel
    def kernel(
        self,
        a_copy: cute.CopyAtom,
        a_tiles: cute.Tensor,
        b_copy: cute.CopyAtom,
        b_tiles: cute.Tensor,
        d: cute.Tensor,
        more: tuple,
        begin: cute.TiledMma,
        add: cute.TiledMma,
        a_layout: cute.ComposedLayout,
        b_layout: cute.ComposedLayout,
    ):
        m, n, k = self.tile
        thread, _, _ = cute.arch.thread_idx()
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        rank = cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster())
        if warp == 0:
            cpasync.prefetch_descriptor(a_copy)
            cpasync.prefetch_descriptor(b_copy)

        @cute.struct
        class Storage:
            barriers: cute.struct.MemRange[cutlass.Int64, self.stages * 2]
            a: cute.struct.Align[cute.struct.MemRange[self.element, cute.cosize(a_layout)], 1024]
            b: cute.struct.Align[cute.struct.MemRange[self.element, cute.cosize(b_layout)], 1024]

        storage = utils.SmemAllocator().allocate(Storage)
        a_shared = storage.a.get_tensor(a_layout.outer, swizzle=a_layout.inner)
        b_shared = storage.b.get_tensor(b_layout.outer, swizzle=b_layout.inner)
        # A stage is free when every multiplying warp of all blocks that its copies reach has released it.
        consumers = self.cluster * self.warpgroups * 4
        ring = pipeline.PipelineTmaAsync.create(
            barrier_storage=storage.barriers.data_ptr(),
            num_stages=self.stages,
            producer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread),
            consumer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, consumers),
            tx_count=self.parts * (m + n) * k * self.element.width // 8,
            cta_layout_vmnk=cute.make_layout((1, self.cluster, 1, 1)),
            defer_sync=True,
        )
        pipeline.pipeline_init_arrive(cluster_shape_mn=(self.cluster, 1), is_relaxed=True)
        a_tiles = cute.local_tile(a_tiles, (m, k), (None, None, None))
        b_tiles = cute.local_tile(b_tiles, (n, k), (None, None, None))
        a_into, a_from = cpasync.tma_partition(
            a_copy, 0, cute.make_layout(1), cute.group_modes(a_shared, 0, 2), cute.group_modes(a_tiles, 0, 2)
        )
        b_into, b_from = cpasync.tma_partition(
            b_copy,
            rank,
            cute.make_layout(self.cluster),
            cute.group_modes(b_shared, 0, 2),
            cute.group_modes(b_tiles, 0, 2),
        )
        batch = self.d[0][2]
        tiles = self.rows * self.columns * batch
        first = cute.arch.block_idx()[0] // self.cluster
        stride = cute.arch.grid_dim()[0] // self.cluster
        pipeline.pipeline_init_wait(cluster_shape_mn=(self.cluster, 1))

        # 65536 registers: 40 a thread for the group that copies leave 232 for each of two that multiply.
        if cutlass.const_expr(self.warpgroups == 2):  # noqa: SIM102, one is known when it is compiled
            if warp < 4:
                cute.arch.setmaxregister_decrease(40)
        if warp == 0:
            state = pipeline.make_pipeline_state(pipeline.PipelineUserType.Producer, self.stages)
            for place in cutlass.range(first, tiles, stride, unroll=1):
                row, column, slab = self.tile_at(place, rank)
                for step in cutlass.range(self.steps, unroll=1):
                    ring.producer_acquire(state)
                    barrier = ring.producer_get_barrier(state)
                    for part in cutlass.range_constexpr(self.parts):
                        slot, layer = state.index * self.parts + part, part * batch + slab
                        cute.copy(
                            a_copy,
                            a_from[(None, row, step, layer)],
                            a_into[(None, slot)],
                            tma_bar_ptr=barrier,
                        )
                        cute.copy(
                            b_copy,
                            b_from[(None, column, step, layer)],
                            b_into[(None, slot)],
                            tma_bar_ptr=barrier,
                            mcast_mask=cutlass.Int16((1 << self.cluster) - 1),
                        )
                    ring.producer_commit(state)
                    state.advance()
            ring.producer_tail(state)
        if warp >= 4:
            if cutlass.const_expr(self.warpgroups == 2):
                cute.arch.setmaxregister_increase(232)
            group = cute.arch.make_warp_uniform(thread // 128) - 1
            part_of = add.get_slice(cute.make_layout(self.warpgroups, stride=128)(group))
            a_parts = add.make_fragment_A(part_of.partition_A(a_shared))
            b_parts = add.make_fragment_B(part_of.partition_B(b_shared))
            at = add.get_slice(thread - 128).partition_C(cute.make_identity_tensor((m, n)))
            begin.set(warpgroup.Field.ACCUMULATE, False)
            add.set(warpgroup.Field.ACCUMULATE, True)
            total, upper, lower = [cute.make_rmem_tensor(at.shape, cutlass.Float32) for _ in range(3)]
            read = pipeline.make_pipeline_state(pipeline.PipelineUserType.Consumer, self.stages)
            free = pipeline.make_pipeline_state(pipeline.PipelineUserType.Consumer, self.stages)
            for place in cutlass.range(first, tiles, stride, unroll=1):
                row, column, slab = self.tile_at(place, rank)
                total.fill(0.0)
                if cutlass.const_expr(self.parts > 1):
                    lower.fill(0.0)
                # The first step frees nothing: its own products may still be reading.
                self.multiply(ring, read, begin, add, a_parts, b_parts, total, upper, lower)
                read.advance()
                for _ in cutlass.range(1, self.steps, unroll=1):
                    self.multiply(ring, read, begin, add, a_parts, b_parts, total, upper, lower)
                    read.advance()
                    ring.consumer_release(free)
                    free.advance()
                warpgroup.wait_group(0)
                ring.consumer_release(free)
                free.advance()
                if cutlass.const_expr(self.parts > 1):
                    for i in cutlass.range_constexpr(cute.size(total)):
                        # Where operands are infinite the first pair is right, and the rest would spoil it.
                        small = cutlass.Float32(lower[i])
                        total[i] += cutlass.Float32(
                            cutlass.select_(small - small == 0.0, small, cutlass.Float32(0.0))
                        )
                self.store(d, more, at, total, row * m, column * n, slab)

    @cute.jit
    def multiply(self, ring, read, begin, add, a_parts, b_parts, total, upper, lower):
        """One step of the depth. On return everything has ended but this step's last group of products."""
        ring.consumer_wait(read)
        warpgroup.fence()
        for which in cutlass.range_constexpr(len(self.pairs)):
            left, right = self.pairs[which]
            sums = lower if which else (total if self.parts == 1 else upper)
            for block in cutlass.range_constexpr(cute.size(a_parts, mode=[2])):
                fresh = self.parts > 1 and which == 0 and block == 0
                cute.gemm(
                    begin if fresh else add,
                    sums,
                    a_parts[(None, None, block, read.index * self.parts + left)],
                    b_parts[(None, None, block, read.index * self.parts + right)],
                    sums,
                )
            if cutlass.const_expr(which == 0 or which == len(self.pairs) - 1):
                warpgroup.commit_group()
        warpgroup.wait_group(1)
        if cutlass.const_expr(self.parts > 1):
            for i in cutlass.range_constexpr(cute.size(total)):
                total[i] += upper[i]

    @cute.jit
    def tile_at(self, place, rank):
        """Row and column of tile number ``place``, and its slab of the batch."""
        slab = place // (self.rows * self.columns)
        rest = place % (self.rows * self.columns)
        start = rest // (self.group * self.columns) * self.group
        height = cutlass.min(self.rows - start, self.group)
        inside = rest % (self.group * self.columns)
        return (start + inside % height) * self.cluster + rank, inside // height, slab

    @cute.jit
    def store(self, d, more, at, sums, row, column, slab):
        """The epilogue, two neighbouring columns at a time."""
        pairs = cute.logical_divide(d, (None, 2, None))
        for i in cutlass.range_constexpr(0, cute.size(sums), 2):
            r, c = row + at[i][0], column + at[i][1]
            if r < self.d[0][0] and c < self.d[0][1]:
                out = cute.make_rmem_tensor(2, d.element_type)
                for j in cutlass.range_constexpr(2):
                    value = self.epilogue(cutlass.Float32(sums[i + j]), r, c + j, slab, more)
                    out[j] = d.element_type(value)
                cute.autovec_copy(out, pairs[(r, (None, c // 2), slab)])


@cute.kernel
def _split_kernel(x: cute.Tensor, parts: cute.Tensor):
    """A float32 is the sum of three bfloat16 to its last bit but one; eight of them a thread."""
    i = cute.arch.block_idx()[0] * 256 + cute.arch.thread_idx()[0]
    if i < x.shape[0]:
        given = cute.make_rmem_tensor(8, cutlass.Float32)
        cute.autovec_copy(x[(i, None)], given)
        rest = given.load()
        for part in cutlass.range_constexpr(parts.shape[0]):
            half = rest.to(cutlass.BFloat16)
            out = cute.make_rmem_tensor(8, cutlass.BFloat16)
            out.store(half)
            cute.autovec_copy(out, parts[(part, i, None)])
            whole = half.to(cutlass.Float32)
            # Of an infinite number nothing is left over.
            rest = cute.where(whole - whole == 0.0, rest - whole, cute.zeros_like(whole))


@cute.jit
def _split(x: cute.Tensor, parts: cute.Tensor, stream: cuda.CUstream):
    eights = x.shape[0] // 8
    count = parts.shape[0] // x.shape[0]
    x = cute.make_tensor(x.iterator, cute.make_layout((eights, 8), stride=(8, 1)))
    parts = cute.make_tensor(parts.iterator, cute.make_layout((count, eights, 8), stride=(8 * eights, 8, 1)))
    _split_kernel(x, parts).launch(grid=(cute.ceil_div(eights, 256), 1, 1), block=(256, 1, 1), stream=stream)


def _parts(key, tensor, count):
    """``tensor`` (float32) as ``count`` bfloat16 tensors whose sum it is, one after another."""
    out = torch.empty(count * tensor.numel(), dtype=torch.bfloat16, device=tensor.device)
    _call(key, _split, tensor, out)
    return out
