"""From a day's image to a verdict: registration, today's dose, goals against plan and course, replan package."""
