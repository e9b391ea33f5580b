"""Deformable registration with elastix; run by the Python of its own environment, without doseeng.

Usage: run_elastix.py TASK.npz OUT.npz GRID_MM (see exchange.py). Mutual information and bending energy, B-splines with
GRID_MM between control points at the end, four resolutions, masks of the day's image; a rigid registration first when
the images lie far apart.
"""

import os
import sys
from pathlib import Path

import itk
import numpy as np
from exchange import AIR_HU, answer, read_task

RESOLUTIONS = 4
ITERATIONS = 500
SAMPLES = 4096
BENDING_WEIGHT = 50.0
COMMON = {
    "AutomaticParameterEstimation": ["true"],
    "DefaultPixelValue": [str(AIR_HU)],
    "FixedImagePyramid": ["FixedSmoothingImagePyramid"],
    "HowToCombineTransforms": ["Compose"],
    "ImageSampler": ["RandomCoordinate"],
    "Interpolator": ["LinearInterpolator"],
    "MaximumNumberOfIterations": [str(ITERATIONS)],
    "MovingImagePyramid": ["MovingSmoothingImagePyramid"],
    "NewSamplesEveryIteration": ["true"],
    "NumberOfHistogramBins": ["32"],
    "NumberOfResolutions": [str(RESOLUTIONS)],
    "NumberOfSpatialSamples": [str(SAMPLES)],
    "Optimizer": ["AdaptiveStochasticGradientDescent"],
    "ResampleInterpolator": ["FinalLinearInterpolator"],
    "Resampler": ["DefaultResampler"],
    "WriteResultImage": ["false"],
}
RIGID = COMMON | {
    "AutomaticScalesEstimation": ["true"],
    "AutomaticTransformInitialization": ["true"],
    "AutomaticTransformInitializationMethod": ["CenterOfGravity"],
    "Metric": ["AdvancedMattesMutualInformation"],
    "Registration": ["MultiResolutionRegistration"],
    "Transform": ["EulerTransform"],
}


def bspline(grid_mm):
    """Parameters of the deformable registration."""
    return COMMON | {
        "FinalGridSpacingInPhysicalUnits": [str(grid_mm)],
        "GridSpacingSchedule": [str(2.0**level) for level in reversed(range(RESOLUTIONS))],
        "Metric": ["AdvancedMattesMutualInformation", "TransformBendingEnergyPenalty"],
        "Metric0Weight": ["1.0"],
        "Metric1Weight": [str(BENDING_WEIGHT)],
        "Registration": ["MultiMetricMultiResolutionRegistration"],
        "Transform": ["BSplineTransform"],
    }


def as_itk(values, image):
    """An ITK image of values on the grid of an image."""
    made = itk.image_from_array(np.ascontiguousarray(values))
    made.SetSpacing(image.spacing_mm)
    made.SetOrigin(image.origin_mm)
    return made


def main(task_path, out_path, grid_mm):
    task = read_task(task_path)
    fixed, moving = (as_itk(image.hu, image) for image in (task.day, task.planning))
    fixed_mask = as_itk(task.day.mask, task.day)
    parameters = itk.ParameterObject.New()
    for stage in [RIGID, bspline(grid_mm)] if task.far else [bspline(grid_mm)]:
        parameters.AddParameterMap(stage)

    def work():
        _, found = itk.elastix_registration_method(fixed, moving, parameter_object=parameters, fixed_mask=fixed_mask)
        field = itk.transformix_deformation_field(moving, found)
        return itk.array_from_image(field), task.day.spacing_mm, task.day.origin_mm

    out = Path(out_path).resolve()
    # transformix leaves a copy of its field in the working folder.
    os.chdir(out.parent)
    answer(str(out), work)


if __name__ == "__main__":
    main(*sys.argv[1:])
