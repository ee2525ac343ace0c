"""Pipeline YAML to dataflow: the plan, the stage, one file a transformer, the engine's adapter."""
