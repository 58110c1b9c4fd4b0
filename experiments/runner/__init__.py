"""The machinery of the experiments: grids of trainings and evaluations, their statistics, report.

YAML -> `spec` -> subjects (problem x arm x seed) -> `jobs` -> `worker` -> result.json
     -> `collect` -> results/ -> `statistics`, `verdicts` -> `report`: README.md and figures
"""
