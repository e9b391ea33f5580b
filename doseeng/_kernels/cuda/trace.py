"""What rays meet, and the way between the frustum and the dose grid; the GPU's side of `_kernels.trace`.

Positions are float32: affine maps are put together in float64 on the host, and what is left to a thread are a few
products within half a metre of the isocentre, good to 1e-4 mm.
"""

from numba import cuda

from doseeng._kernels.cuda.device import B2, DEVICE, F1, F3, F, I, floats, kernel, larger, smaller
from doseeng._kernels.scalar import F32, HALF, ONE, ZERO

trilinear, place, catmull_rom = (DEVICE[n] for n in ("trilinear", "place", "catmull_rom"))


@cuda.jit(device=True)
def at_faces(faces, z, y, x):
    """Value of `faces[z, y, x]` at a fractional index inside, a cubic along z and bilinear across."""
    n_face, n_v, n_u = faces.shape
    k, j, i = smaller(int(z), n_face - 2), smaller(int(y), n_v - 2), smaller(int(x), n_u - 2)
    h, g, f = z - F32(k), y - F32(j), x - F32(i)
    value = ZERO
    for d in range(4):
        row = smaller(larger(k + d - 1, 0), n_face - 1)
        p = faces[row, j, i] + (faces[row, j, i + 1] - faces[row, j, i]) * f
        q = faces[row, j + 1, i] + (faces[row, j + 1, i + 1] - faces[row, j + 1, i]) * f
        value += (p + (q - p) * g) * catmull_rom(d, h)
    return value


@kernel(F3, F3, floats(18), I, B2, F3, F3)
def trace(rsp, scattering, line, samples, wanted, out_rsp, out_scatter):
    """out_rsp, out_scatter (slice, v, u) = means over `samples` points per slice of the wanted rays; vacuum elsewhere.

    line: for each of the image's axes x, y, z the index of the first sample and its step, each as value on ray (0, 0),
    change per ray along u, change per ray along v.
    """
    u, v, k = cuda.grid(3)
    n_slice, n_v, n_u = out_rsp.shape
    if u >= n_u or v >= n_v or k >= n_slice:
        return
    stop, scatter = ZERO, ZERO
    if wanted[v, u]:
        a, b = F32(u), F32(v)
        i0, i1 = line[0] + a * line[1] + b * line[2], line[3] + a * line[4] + b * line[5]
        j0, j1 = line[6] + a * line[7] + b * line[8], line[9] + a * line[10] + b * line[11]
        l0, l1 = line[12] + a * line[13] + b * line[14], line[15] + a * line[16] + b * line[17]
        for s in range(samples):
            n = F32(k * samples + s)
            i, j, l = i0 + n * i1, j0 + n * j1, l0 + n * l1
            stop += trilinear(rsp, i, j, l, ZERO)
            scatter += trilinear(scattering, i, j, l, ZERO)
    out_rsp[k, v, u] = stop / F32(samples)
    out_scatter[k, v, u] = scatter / F32(samples)


@kernel(F3, F1, F3)
def integrate(values, weight, faces):
    """faces (slice + 1, v, u) = values (slice, v, u) times weight (slice,), summed from the top."""
    u, v, _ = cuda.grid(3)
    n_slice, n_v, n_u = values.shape
    if u < n_u and v < n_v:
        total = ZERO
        faces[0, v, u] = total
        for k in range(n_slice):
            total += values[k, v, u] * weight[k]
            faces[k + 1, v, u] = total


@kernel(F3, F1, F3)
def integrate_back(faces, weight, values):
    """The transpose of `integrate`: values = weight times the sum of all faces below."""
    u, v, _ = cuda.grid(3)
    n_slice, n_v, n_u = values.shape
    if u < n_u and v < n_v:
        total = ZERO
        for below in range(n_slice):
            k = n_slice - 1 - below
            total += faces[k + 1, v, u]
            values[k, v, u] = total * weight[k]


@kernel(F3, floats(12), floats(7), F, I, I, I, I, I, I, F3)
def add_to_grid(faces, m, frustum, depth, i0, i1, j0, j1, k0, k1, out):
    """Voxels i0..i1-1, j0..j1-1, k0..k1-1 of out += mean over `depth` mm along the axis around their centres.

    m: affine from voxel index to gantry mm; frustum: `Frustum.description`.
    """
    i, j, k = cuda.grid(3)
    i, j, k = i + i0, j + j0, k + k0
    if i >= i1 or j >= j1 or k >= k1:
        return
    n_face, n_v, n_u = faces.shape
    u0, v0, pitch, top, dz, source_x, source_y = frustum
    z, y, x = place(m, i, j, k, u0, v0, pitch, top, dz, source_x, source_y)
    half = HALF * depth / dz
    end = F32(n_face - 1)
    if z + half > ZERO and z - half < end and x >= ZERO and y >= ZERO and x <= F32(n_u - 1) and y <= F32(n_v - 1):
        upper = at_faces(faces, smaller(larger(z - half, ZERO), end), y, x)
        lower = at_faces(faces, smaller(larger(z + half, ZERO), end), y, x)
        out[k, j, i] += (lower - upper) / depth


@kernel(F3, floats(12), floats(7), F, I, I, I, I, I, I, F3)
def add_to_faces(dose, m, frustum, depth, i0, i1, j0, j1, k0, k1, faces):
    """The transpose of `add_to_grid`: faces += what each voxel of dose took from them."""
    i, j, k = cuda.grid(3)
    i, j, k = i + i0, j + j0, k + k0
    if i >= i1 or j >= j1 or k >= k1:
        return
    value = dose[k, j, i] / depth
    n_face, n_v, n_u = faces.shape
    u0, v0, pitch, top, dz, source_x, source_y = frustum
    z, y, x = place(m, i, j, k, u0, v0, pitch, top, dz, source_x, source_y)
    half = HALF * depth / dz
    end = F32(n_face - 1)
    inside = z + half > ZERO and z - half < end and x >= ZERO and y >= ZERO and x <= F32(n_u - 1) and y <= F32(n_v - 1)
    if value == ZERO or not inside:
        return
    a, b = smaller(int(x), n_u - 2), smaller(int(y), n_v - 2)
    fa, fb = x - F32(a), y - F32(b)
    for side in range(2):
        signed = value if side == 1 else -value
        face = smaller(larger(z + half if side == 1 else z - half, ZERO), end)
        top_face = smaller(int(face), n_face - 2)
        f = face - F32(top_face)
        for d in range(4):
            row = smaller(larger(top_face + d - 1, 0), n_face - 1)
            w = signed * catmull_rom(d, f)
            cuda.atomic.add(faces, (row, b, a), w * (ONE - fb) * (ONE - fa))
            cuda.atomic.add(faces, (row, b, a + 1), w * (ONE - fb) * fa)
            cuda.atomic.add(faces, (row, b + 1, a), w * fb * (ONE - fa))
            cuda.atomic.add(faces, (row, b + 1, a + 1), w * fb * fa)
