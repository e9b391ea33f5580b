"""Deformable registration with what SimpleITK offers, as its examples do it; needs SimpleITK, not doseeng.

Usage: run_sitk.py TASK.npz OUT.npz RECIPE (see exchange.py). Recipes:

* bspline: free-form deformation, Mattes mutual information, control points every 80, 40, 20 mm with shrink factors
  4, 2, 1, L-BFGS, a tenth of the voxels inside the mask of the day's image. ITK keeps the derivative of every
  histogram bin by every parameter: control points every 10 mm took 22 GB;
* demons: fast symmetric forces demons, three resolutions, the field smoothed every time. Demons know no mask: outside
  the mask the day's image is filled with the planning image, then histograms are matched;
* diffeomorphic: the same with diffeomorphic demons.

A rigid registration comes first when the images lie far apart.
"""

import sys

import SimpleITK as sitk
from exchange import AIR_HU, answer, read_task

LEVELS = 3
FINAL_GRID_MM = 20.0
DEMONS_ITERATIONS = (100, 60, 40)
SMOOTHING_VOXELS = 1.5
SAMPLED = 0.1
BINS = 24


def as_sitk(values, image):
    """A SimpleITK image of values on the grid of an image."""
    made = sitk.GetImageFromArray(values)
    made.SetSpacing(image.spacing_mm)
    made.SetOrigin(image.origin_mm)
    return made


def mutual_information(mask):
    """A registration method with what all stages share."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(mask)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(SAMPLED, 20211)
    method.SetInterpolator(sitk.sitkLinear)
    return method


def rigid(fixed, moving, mask):
    """Six degrees of freedom from the centres of mass, three resolutions."""
    euler = sitk.Euler3DTransform()
    start = sitk.CenteredTransformInitializer(fixed, moving, euler, sitk.CenteredTransformInitializerFilter.MOMENTS)
    method = mutual_information(mask)
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4.0, 2.0, 0.0])
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 0.01, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(start, inPlace=False)
    return method.Execute(fixed, moving)


def bspline(fixed, moving, mask):
    """Free-form deformation with mutual information."""
    size = [n * s for n, s in zip(fixed.GetSize(), fixed.GetSpacing(), strict=True)]
    mesh = [max(1, round(length / (FINAL_GRID_MM * 2 ** (LEVELS - 1)))) for length in size]
    start = sitk.BSplineTransformInitializer(fixed, mesh, order=3)
    method = mutual_information(mask)
    method.SetInitialTransformAsBSpline(start, inPlace=True, scaleFactors=[2**level for level in range(LEVELS)])
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4.0, 2.0, 0.0])
    method.SetOptimizerAsLBFGS2(solutionAccuracy=1e-5, numberOfIterations=20, deltaConvergenceTolerance=1e-4)
    return method.Execute(fixed, moving)


def demons(make_filter):
    """The recipe of demons with one filter, coarse to fine."""

    def register(fixed, moving, mask):
        there = sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkLinear, AIR_HU)
        fixed = sitk.Mask(fixed, mask) + sitk.Mask(there, mask == 0)
        matched = sitk.HistogramMatching(moving, fixed, 256, 15, True)
        field = None
        for level, iterations in enumerate(DEMONS_ITERATIONS):
            shrink = 2 ** (len(DEMONS_ITERATIONS) - 1 - level)
            small, other = (smaller(image, shrink) for image in (fixed, matched))
            method = make_filter()
            method.SetNumberOfIterations(iterations)
            method.SetSmoothDisplacementField(True)
            method.SetStandardDeviations(SMOOTHING_VOXELS)
            start = sitk.Image(small.GetSize(), sitk.sitkVectorFloat64, 3)
            start.CopyInformation(small)
            if field is not None:
                start = sitk.Resample(field, small, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkVectorFloat64)
            other = sitk.Resample(other, small, sitk.Transform(), sitk.sitkLinear, AIR_HU)
            field = method.Execute(small, other, start)
        return sitk.DisplacementFieldTransform(sitk.Image(field))

    return register


def smaller(image, shrink):
    """A smoothed image with every shrink-th voxel."""
    if shrink == 1:
        return image
    sigmas = [0.5 * shrink * s for s in image.GetSpacing()]
    return sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, sigmas), [shrink] * 3)


RECIPES = {
    "bspline": bspline,
    "demons": demons(sitk.FastSymmetricForcesDemonsRegistrationFilter),
    "diffeomorphic": demons(sitk.DiffeomorphicDemonsRegistrationFilter),
}


def main(task_path, out_path, recipe):
    task = read_task(task_path)
    fixed, moving = (as_sitk(image.hu, image) for image in (task.day, task.planning))
    mask = as_sitk(task.day.mask, task.day)

    def work():
        first = rigid(fixed, moving, mask) if task.far else sitk.Transform()
        near = sitk.Resample(moving, fixed, first, sitk.sitkLinear, AIR_HU) if task.far else moving
        # Deformation first, then the rigid transform that brought the planning image near.
        both = sitk.CompositeTransform([first, RECIPES[recipe](fixed, near, mask)])
        to_field = sitk.TransformToDisplacementFieldFilter()
        to_field.SetReferenceImage(fixed)
        return sitk.GetArrayFromImage(to_field.Execute(both)), task.day.spacing_mm, task.day.origin_mm

    answer(out_path, work)


if __name__ == "__main__":
    main(*sys.argv[1:])
