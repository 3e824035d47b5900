// Tiles of 32 x 32 through shared memory, both sides in whole lines.
constexpr int TILE = 32, LINES = 8;

extern "C" __global__ void __launch_bounds__(TILE * LINES)
transpose_kernel(const float* x, float* y, int rows, int columns) {
  // One more column than there are: the threads of a warp read down a column from different banks.
  __shared__ float tile[TILE][TILE + 1];
  const int column = blockIdx.x * TILE, row = blockIdx.y * TILE;
  const int across = threadIdx.x, down = threadIdx.y;
  for (int i = down; i < TILE; i += LINES)
    if (row + i < rows && column + across < columns)
      tile[i][across] = x[(long long)(row + i) * columns + column + across];
  __syncthreads();
  for (int i = down; i < TILE; i += LINES)
    if (column + i < columns && row + across < rows)
      y[(long long)(column + i) * rows + row + across] = tile[across][i];
}
