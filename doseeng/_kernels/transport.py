"""Structures as level functions, and dose carried as energy and mass through a displacement field."""

import numpy as np
from numba import njit, prange

from doseeng._kernels.scalar import trilinear

F32 = np.float32
PIECE_PIXELS = 4.0
"""Long polygon edges are taken in pieces, so that the box of pixels round a slanted piece stays small."""

THINNEST = 1e-3
"""Least width, in target voxels, of what a voxel is pressed into, also where the field folds it flat."""


@njit(cache=True, inline="always")
def _offer(feet, v, u, foot_u, foot_v):
    """Keep a point of the polygon as the foot of a pixel when it is nearer than the one so far."""
    new = (foot_u - u) * (foot_u - u) + (foot_v - v) * (foot_v - v)
    old = (feet[v, u, 0] - u) * (feet[v, u, 0] - u) + (feet[v, u, 1] - v) * (feet[v, u, 1] - v)
    if new < old:
        feet[v, u, 0] = foot_u
        feet[v, u, 1] = foot_v


@njit(cache=True)
def _seed(points, feet, inside):
    """Exact feet for the pixels next to one closed polygon; `inside` toggled where its edges cross a row."""
    nv, nu, _ = feet.shape
    for n in range(len(points)):
        u0, v0, v1 = points[n - 1, 0], points[n - 1, 1], points[n, 1]
        du, dv = points[n, 0] - u0, v1 - v0
        square = du * du + dv * dv
        pieces = int(np.sqrt(square) / PIECE_PIXELS) + 1
        for piece in range(pieces):
            a_u, a_v = u0 + du * piece / pieces, v0 + dv * piece / pieces
            b_u, b_v = u0 + du * (piece + 1) / pieces, v0 + dv * (piece + 1) / pieces
            for v in range(max(int(min(a_v, b_v)) - 1, 0), min(int(max(a_v, b_v)) + 3, nv)):
                for u in range(max(int(min(a_u, b_u)) - 1, 0), min(int(max(a_u, b_u)) + 3, nu)):
                    along = ((u - u0) * du + (v - v0) * dv) / square if square > 0.0 else 0.0
                    along = min(max(along, 0.0), 1.0)
                    _offer(feet, v, u, F32(u0 + along * du), F32(v0 + along * dv))
        # v1 itself, not v0 + dv: two edges must agree to the last bit on the row of the point they share.
        for v in range(max(int(np.ceil(min(v0, v1))), 0), min(int(np.ceil(max(v0, v1))), nv)):
            first = int(np.ceil(u0 + (v - v0) / dv * du))
            if first < nu:
                inside[v, max(first, 0)] ^= 1


@njit(cache=True)
def _sweep(feet):
    """Hand the feet on from pixel to pixel, down and up (Danielsson, CGIP 14 (1980) 227, with feet off the lattice)."""
    nv, nu, _ = feet.shape
    for turn in range(2):
        step = 1 - 2 * turn
        for row in range(nv):
            v = row if turn == 0 else nv - 1 - row
            if row > 0:
                for u in range(nu):
                    for w in range(max(u - 1, 0), min(u + 2, nu)):
                        _offer(feet, v, u, feet[v - step, w, 0], feet[v - step, w, 1])
            for u in range(1, nu):
                _offer(feet, v, u, feet[v, u - 1, 0], feet[v, u - 1, 1])
            for u in range(nu - 2, -1, -1):
                _offer(feet, v, u, feet[v, u + 1, 0], feet[v, u + 1, 1])


@njit(cache=True, parallel=True)
def signed_distances(points, starts, planes, out):
    """Distance in pixels of every pixel centre from the polygons of its plane, positive inside (even-odd).

    points: (n, 2) float64 (u, v), pixel centres at whole numbers. Polygon p is points[starts[p]:starts[p + 1]]; plane q
    has the polygons planes[q] .. planes[q + 1] - 1. out: (planes, nv, nu) float32.
    """
    count, nv, nu = out.shape
    for q in prange(count):
        feet = np.full((nv, nu, 2), F32(1e6), dtype=np.float32)
        inside = np.zeros((nv, nu), dtype=np.uint8)
        for p in range(planes[q], planes[q + 1]):
            _seed(points[starts[p] : starts[p + 1]], feet, inside)
        _sweep(feet)
        for v in range(nv):
            within = 0
            for u in range(nu):
                within ^= inside[v, u]
                away = np.sqrt((feet[v, u, 0] - u) ** 2 + (feet[v, u, 1] - v) ** 2)
                out[q, v, u] = away if within else -away


@njit(cache=True, inline="always")
def _bilinear_inside(plane, u, v, outside):
    """Value of plane[v, u] at a fractional pixel, `outside` beyond the outermost pixel centres."""
    nv, nu = plane.shape
    if u < 0.0 or v < 0.0 or u > nu - 1 or v > nv - 1:
        return outside
    a, b = min(int(u), nu - 2), min(int(v), nv - 2)
    f, g = F32(u - a), F32(v - b)
    low = plane[b, a] + (plane[b, a + 1] - plane[b, a]) * f
    high = plane[b + 1, a] + (plane[b + 1, a + 1] - plane[b + 1, a]) * f
    return low + (high - low) * g


@njit(cache=True, inline="always")
def _level(levels, knots, knot_plane, joined, u, v, n, outside):
    """Level at pixel (u, v) and height n: linear between the knots, `outside` where they are not joined."""
    if not (knots[0] <= n <= knots[-1]):
        return outside
    k = min(np.searchsorted(knots, n, side="right") - 1, len(knots) - 2)
    if not joined[k]:
        return outside
    below = _bilinear_inside(levels[knot_plane[k]], u, v, outside)
    above = _bilinear_inside(levels[knot_plane[k + 1]], u, v, outside)
    return below + (above - below) * F32((n - knots[k]) / (knots[k + 1] - knots[k]))


@njit(cache=True, inline="always")
def _component(vectors, c, i0, j0, k0, i1, j1, k1, fi, fj, fk):
    low = vectors[k0, j0, i0, c] + fi * (vectors[k0, j0, i1, c] - vectors[k0, j0, i0, c])
    high = vectors[k0, j1, i0, c] + fi * (vectors[k0, j1, i1, c] - vectors[k0, j1, i0, c])
    front = low + fj * (high - low)
    low = vectors[k1, j0, i0, c] + fi * (vectors[k1, j0, i1, c] - vectors[k1, j0, i0, c])
    high = vectors[k1, j1, i0, c] + fi * (vectors[k1, j1, i1, c] - vectors[k1, j1, i0, c])
    return front + fk * (low + fj * (high - low) - front)


@njit(cache=True, parallel=True)
def levels_through_field(stack, vectors, to_field, to_point, to_pixel, heights, out, outside):
    """Level of a structure where a displacement field takes the pixels of parallel planes.

    stack: (levels, knots, knot_plane, joined) as `registration.surface.LevelFunction` has them. vectors:
    (nz, ny, nx, 3) in mm, constant beyond the edge. to_field: (3, 4) patient to field index. to_point: (3, 4) from
    (u, v, height, 1) to patient. to_pixel: (3, 4) patient to (u, v, height) of the stack. out: (heights, nv, nu).
    """
    levels, knots, knot_plane, joined = stack
    nz, ny, nx, _ = vectors.shape
    count, nv, nu = out.shape
    for row in prange(count * nv):
        p, v = row // nv, row % nv
        for u in range(nu):
            x = to_point[0, 0] * u + to_point[0, 1] * v + to_point[0, 2] * heights[p] + to_point[0, 3]
            y = to_point[1, 0] * u + to_point[1, 1] * v + to_point[1, 2] * heights[p] + to_point[1, 3]
            z = to_point[2, 0] * u + to_point[2, 1] * v + to_point[2, 2] * heights[p] + to_point[2, 3]
            i = to_field[0, 0] * x + to_field[0, 1] * y + to_field[0, 2] * z + to_field[0, 3]
            j = to_field[1, 0] * x + to_field[1, 1] * y + to_field[1, 2] * z + to_field[1, 3]
            k = to_field[2, 0] * x + to_field[2, 1] * y + to_field[2, 2] * z + to_field[2, 3]
            i, j, k = min(max(i, 0.0), nx - 1.0), min(max(j, 0.0), ny - 1.0), min(max(k, 0.0), nz - 1.0)
            i0, j0, k0 = int(i), int(j), int(k)
            i1, j1, k1 = min(i0 + 1, nx - 1), min(j0 + 1, ny - 1), min(k0 + 1, nz - 1)
            fi, fj, fk = F32(i - i0), F32(j - j0), F32(k - k0)
            x += _component(vectors, 0, i0, j0, k0, i1, j1, k1, fi, fj, fk)
            y += _component(vectors, 1, i0, j0, k0, i1, j1, k1, fi, fj, fk)
            z += _component(vectors, 2, i0, j0, k0, i1, j1, k1, fi, fj, fk)
            a = to_pixel[0, 0] * x + to_pixel[0, 1] * y + to_pixel[0, 2] * z + to_pixel[0, 3]
            b = to_pixel[1, 0] * x + to_pixel[1, 1] * y + to_pixel[1, 2] * z + to_pixel[1, 3]
            n = to_pixel[2, 0] * x + to_pixel[2, 1] * y + to_pixel[2, 2] * z + to_pixel[2, 3]
            out[p, v, u] = _level(levels, knots, knot_plane, joined, a, b, n, outside)


@njit(cache=True, inline="always")
def _slope(low, mid, high):
    """Limited slope per voxel: parts of a voxel average to its value and never pass its neighbours'.

    Monotonised central difference (van Leer, J Comput Phys 23 (1977) 276).
    """
    down, up = mid - low, high - mid
    if down * up <= 0.0:
        return F32(0.0)
    size = min(F32(2.0) * abs(down), F32(2.0) * abs(up), F32(0.5) * abs(down + up))
    return size if up > 0.0 else -size


@njit(cache=True, inline="always")
def _slopes(dose, k, j, i):
    nz, ny, nx = dose.shape
    mid = dose[k, j, i]
    return (
        _slope(dose[k, j, max(i - 1, 0)], mid, dose[k, j, min(i + 1, nx - 1)]),
        _slope(dose[k, max(j - 1, 0), i], mid, dose[k, min(j + 1, ny - 1), i]),
        _slope(dose[max(k - 1, 0), j, i], mid, dose[min(k + 1, nz - 1), j, i]),
    )


@njit(cache=True, inline="always")
def _edges(vectors, k, j, i, axis, to_target, spacing):
    """How the image of a voxel grows along one of its axes, in target voxels: central differences of the field."""
    nz, ny, nx, _ = vectors.shape
    i0, i1 = max(i - 1, 0) if axis == 0 else i, min(i + 1, nx - 1) if axis == 0 else i
    j0, j1 = max(j - 1, 0) if axis == 1 else j, min(j + 1, ny - 1) if axis == 1 else j
    k0, k1 = max(k - 1, 0) if axis == 2 else k, min(k + 1, nz - 1) if axis == 2 else k
    steps = max((i1 - i0) + (j1 - j0) + (k1 - k0), 1)
    x = spacing[0, axis] + (vectors[k1, j1, i1, 0] - vectors[k0, j0, i0, 0]) / steps
    y = spacing[1, axis] + (vectors[k1, j1, i1, 1] - vectors[k0, j0, i0, 1]) / steps
    z = spacing[2, axis] + (vectors[k1, j1, i1, 2] - vectors[k0, j0, i0, 2]) / steps
    return (
        to_target[0, 0] * x + to_target[0, 1] * y + to_target[0, 2] * z,
        to_target[1, 0] * x + to_target[1, 1] * y + to_target[1, 2] * z,
        to_target[2, 0] * x + to_target[2, 1] * y + to_target[2, 2] * z,
    )


@njit(cache=True, inline="always")
def _deposit(energy, mass, at, width, gy_g, g):
    """Spread energy and mass evenly over a box; returns the share of the box that lies in the target grid."""
    nz, ny, nx = mass.shape
    landed = 0.0
    low_i, high_i = at[0] - 0.5 * width[0], at[0] + 0.5 * width[0]
    low_j, high_j = at[1] - 0.5 * width[1], at[1] + 0.5 * width[1]
    low_k, high_k = at[2] - 0.5 * width[2], at[2] + 0.5 * width[2]
    for k in range(max(int(np.floor(low_k + 0.5)), 0), min(int(np.floor(high_k + 0.5)), nz - 1) + 1):
        share_k = max(min(high_k, k + 0.5) - max(low_k, k - 0.5), 0.0) / width[2]
        for j in range(max(int(np.floor(low_j + 0.5)), 0), min(int(np.floor(high_j + 0.5)), ny - 1) + 1):
            share_j = share_k * max(min(high_j, j + 0.5) - max(low_j, j - 0.5), 0.0) / width[1]
            for i in range(max(int(np.floor(low_i + 0.5)), 0), min(int(np.floor(high_i + 0.5)), nx - 1) + 1):
                share = share_j * max(min(high_i, i + 0.5) - max(low_i, i - 0.5), 0.0) / width[0]
                energy[k, j, i] += share * gy_g
                mass[k, j, i] += share * g
                landed += share
    return landed


@njit(cache=True)
def carry_energy_mass(dose, density, to_density, vectors, points, spacing, to_target, split, energy, mass):
    """Energy and mass of every voxel of a dose, in split**3 parts, put where the field takes them.

    dose: (nz, ny, nx) Gy. density: g/cm3 on any grid; to_density: (3, 4) from dose index to its index. vectors:
    (nz, ny, nx, 3) mm on the dose grid. points: (3, 4) dose index to patient; spacing: (3, 3) its columns. to_target:
    (3, 4) patient to target index. energy (Gy g) and mass (g): float64 on the target grid, added to. Parts are boxes
    along the target's axes with the mean and the variance of the parallelepiped that a part is taken to. Returns
    (energy in all, energy landed, mass in all, mass landed).
    """
    nz, ny, nx = dose.shape
    cm3 = abs(np.linalg.det(spacing)) / 1000.0 / split**3
    all_energy, landed_energy, all_mass, landed_mass = 0.0, 0.0, 0.0, 0.0
    at, width = np.empty(3), np.empty(3)
    for k in range(nz):
        for j in range(ny):
            for i in range(nx):
                x = points[0, 0] * i + points[0, 1] * j + points[0, 2] * k + points[0, 3] + vectors[k, j, i, 0]
                y = points[1, 0] * i + points[1, 1] * j + points[1, 2] * k + points[1, 3] + vectors[k, j, i, 1]
                z = points[2, 0] * i + points[2, 1] * j + points[2, 2] * k + points[2, 3] + vectors[k, j, i, 2]
                along_i = _edges(vectors, k, j, i, 0, to_target, spacing)
                along_j = _edges(vectors, k, j, i, 1, to_target, spacing)
                along_k = _edges(vectors, k, j, i, 2, to_target, spacing)
                for c in range(3):
                    extent = np.sqrt(along_i[c] ** 2 + along_j[c] ** 2 + along_k[c] ** 2)
                    width[c] = max(extent / split, THINNEST)
                slopes = _slopes(dose, k, j, i)
                for part in range(split**3):
                    di = (part % split + 0.5) / split - 0.5
                    dj = (part // split % split + 0.5) / split - 0.5
                    dk = (part // (split * split) + 0.5) / split - 0.5
                    pi, pj, pk = i + di, j + dj, k + dk
                    a = to_density[0, 0] * pi + to_density[0, 1] * pj + to_density[0, 2] * pk + to_density[0, 3]
                    b = to_density[1, 0] * pi + to_density[1, 1] * pj + to_density[1, 2] * pk + to_density[1, 3]
                    c = to_density[2, 0] * pi + to_density[2, 1] * pj + to_density[2, 2] * pk + to_density[2, 3]
                    g = cm3 * trilinear(density, F32(a), F32(b), F32(c), F32(0.0))
                    if g <= 0.0:
                        continue
                    gy_g = g * (dose[k, j, i] + slopes[0] * di + slopes[1] * dj + slopes[2] * dk)
                    for d in range(3):
                        centre = to_target[d, 0] * x + to_target[d, 1] * y + to_target[d, 2] * z + to_target[d, 3]
                        at[d] = centre + along_i[d] * di + along_j[d] * dj + along_k[d] * dk
                    landed = _deposit(energy, mass, at, width, gy_g, g)
                    all_energy += gy_g
                    all_mass += g
                    landed_energy += landed * gy_g
                    landed_mass += landed * g
    return all_energy, landed_energy, all_mass, landed_mass
