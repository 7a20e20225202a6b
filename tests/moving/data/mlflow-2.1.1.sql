BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('97727af70f4d');
CREATE TABLE experiment_tags (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	experiment_id INTEGER NOT NULL, 
	CONSTRAINT experiment_tag_pk PRIMARY KEY ("key", experiment_id), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id)
);
CREATE TABLE experiments (
	experiment_id INTEGER NOT NULL, 
	name VARCHAR(256) NOT NULL, 
	artifact_location VARCHAR(256), 
	lifecycle_stage VARCHAR(32), creation_time BIGINT, last_update_time BIGINT, 
	CONSTRAINT experiment_pk PRIMARY KEY (experiment_id), 
	CONSTRAINT experiments_lifecycle_stage CHECK (lifecycle_stage IN ('active', 'deleted')), 
	UNIQUE (name)
);
INSERT INTO "experiments" VALUES(0,'Default','mlflow-artifacts:/0','active',1795632208790,1795632208790);
INSERT INTO "experiments" VALUES(1,'iris','mlflow-artifacts:/1','active',1795632326019,1795632326019);
CREATE TABLE "latest_metrics" (
	"key" VARCHAR(250) NOT NULL, 
	value FLOAT NOT NULL, 
	timestamp BIGINT, 
	step BIGINT NOT NULL, 
	is_nan BOOLEAN NOT NULL, 
	run_uuid VARCHAR(32) NOT NULL, 
	CONSTRAINT latest_metric_pk PRIMARY KEY ("key", run_uuid), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid), 
	CHECK (is_nan IN (0, 1))
);
INSERT INTO "latest_metrics" VALUES('loss',3.33333333333333328707e-02,1795632356481,2,0,'ac34a64954764be1a9cf5c49acd6eac2');
INSERT INTO "latest_metrics" VALUES('loss',6.66666666666666657414e-02,1795632357761,2,0,'a439bc9a30384764bca87a803fc0dc67');
INSERT INTO "latest_metrics" VALUES('loss',3.33333333333333328707e-02,1795632358920,2,0,'81e9265308a441ed892216d556326b9f');
INSERT INTO "latest_metrics" VALUES('loss',6.66666666666666657414e-02,1795632359569,2,0,'1dc6bdad3f80436b9d25dd6d3a4ff707');
CREATE TABLE "metrics" (
	"key" VARCHAR(250) NOT NULL, 
	value FLOAT NOT NULL, 
	timestamp BIGINT NOT NULL, 
	run_uuid VARCHAR(32) NOT NULL, 
	step BIGINT DEFAULT '0' NOT NULL, 
	is_nan BOOLEAN DEFAULT '0' NOT NULL, 
	CONSTRAINT metric_pk PRIMARY KEY ("key", timestamp, step, run_uuid, value, is_nan), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid), 
	CHECK (is_nan IN (0, 1))
);
INSERT INTO "metrics" VALUES('loss',0.1,1795632345614,'ac34a64954764be1a9cf5c49acd6eac2',0,0);
INSERT INTO "metrics" VALUES('loss',0.05,1795632345823,'ac34a64954764be1a9cf5c49acd6eac2',1,0);
INSERT INTO "metrics" VALUES('loss',3.33333333333333328707e-02,1795632356481,'ac34a64954764be1a9cf5c49acd6eac2',2,0);
INSERT INTO "metrics" VALUES('loss',0.2,1795632357532,'a439bc9a30384764bca87a803fc0dc67',0,0);
INSERT INTO "metrics" VALUES('loss',0.1,1795632357640,'a439bc9a30384764bca87a803fc0dc67',1,0);
INSERT INTO "metrics" VALUES('loss',6.66666666666666657414e-02,1795632357761,'a439bc9a30384764bca87a803fc0dc67',2,0);
INSERT INTO "metrics" VALUES('loss',0.1,1795632358652,'81e9265308a441ed892216d556326b9f',0,0);
INSERT INTO "metrics" VALUES('loss',0.05,1795632358741,'81e9265308a441ed892216d556326b9f',1,0);
INSERT INTO "metrics" VALUES('loss',3.33333333333333328707e-02,1795632358920,'81e9265308a441ed892216d556326b9f',2,0);
INSERT INTO "metrics" VALUES('loss',0.2,1795632359416,'1dc6bdad3f80436b9d25dd6d3a4ff707',0,0);
INSERT INTO "metrics" VALUES('loss',0.1,1795632359474,'1dc6bdad3f80436b9d25dd6d3a4ff707',1,0);
INSERT INTO "metrics" VALUES('loss',6.66666666666666657414e-02,1795632359569,'1dc6bdad3f80436b9d25dd6d3a4ff707',2,0);
CREATE TABLE model_version_tags (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	name VARCHAR(256) NOT NULL, 
	version INTEGER NOT NULL, 
	CONSTRAINT model_version_tag_pk PRIMARY KEY ("key", name, version), 
	FOREIGN KEY(name, version) REFERENCES model_versions (name, version) ON UPDATE cascade
);
CREATE TABLE "model_versions" (
	name VARCHAR(256) NOT NULL, 
	version INTEGER NOT NULL, 
	creation_time BIGINT, 
	last_updated_time BIGINT, 
	description VARCHAR(5000), 
	user_id VARCHAR(256), 
	current_stage VARCHAR(20), 
	source VARCHAR(500), 
	run_id VARCHAR(32), 
	status VARCHAR(20), 
	status_message VARCHAR(500), 
	run_link VARCHAR(500), 
	CONSTRAINT model_version_pk PRIMARY KEY (name, version), 
	FOREIGN KEY(name) REFERENCES registered_models (name) ON UPDATE CASCADE
);
INSERT INTO "model_versions" VALUES('flowers',1,1795632360308,1795632360308,'',NULL,'None','mlflow-artifacts:/1/1dc6bdad3f80436b9d25dd6d3a4ff707/artifacts/notes','1dc6bdad3f80436b9d25dd6d3a4ff707','READY',NULL,'');
CREATE TABLE "params" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(500) NOT NULL, 
	run_uuid VARCHAR(32) NOT NULL, 
	CONSTRAINT param_pk PRIMARY KEY ("key", run_uuid), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid)
);
INSERT INTO "params" VALUES('rate','0.1','ac34a64954764be1a9cf5c49acd6eac2');
INSERT INTO "params" VALUES('rate','0.2','a439bc9a30384764bca87a803fc0dc67');
INSERT INTO "params" VALUES('rate','0.1','81e9265308a441ed892216d556326b9f');
INSERT INTO "params" VALUES('rate','0.2','1dc6bdad3f80436b9d25dd6d3a4ff707');
CREATE TABLE registered_model_tags (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	name VARCHAR(256) NOT NULL, 
	CONSTRAINT registered_model_tag_pk PRIMARY KEY ("key", name), 
	FOREIGN KEY(name) REFERENCES registered_models (name) ON UPDATE cascade
);
CREATE TABLE registered_models (
	name VARCHAR(256) NOT NULL, 
	creation_time BIGINT, 
	last_updated_time BIGINT, 
	description VARCHAR(5000), 
	CONSTRAINT registered_model_pk PRIMARY KEY (name), 
	UNIQUE (name)
);
INSERT INTO "registered_models" VALUES('flowers',1795632360218,1795632360308,'');
CREATE TABLE "runs" (
	run_uuid VARCHAR(32) NOT NULL, 
	name VARCHAR(250), 
	source_type VARCHAR(20), 
	source_name VARCHAR(500), 
	entry_point_name VARCHAR(50), 
	user_id VARCHAR(256), 
	status VARCHAR(9), 
	start_time BIGINT, 
	end_time BIGINT, 
	source_version VARCHAR(50), 
	lifecycle_stage VARCHAR(20), 
	artifact_uri VARCHAR(200), 
	experiment_id INTEGER, deleted_time BIGINT, 
	CONSTRAINT run_pk PRIMARY KEY (run_uuid), 
	CONSTRAINT runs_lifecycle_stage CHECK (lifecycle_stage IN ('active', 'deleted')), 
	CONSTRAINT source_type CHECK (source_type IN ('NOTEBOOK', 'JOB', 'LOCAL', 'UNKNOWN', 'PROJECT')), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id), 
	CHECK (status IN ('SCHEDULED', 'FAILED', 'FINISHED', 'RUNNING', 'KILLED'))
);
INSERT INTO "runs" VALUES('ac34a64954764be1a9cf5c49acd6eac2','whimsical-panda-483','UNKNOWN','','','unknown','FINISHED',1795632326104,1795632356899,'','deleted','mlflow-artifacts:/0/ac34a64954764be1a9cf5c49acd6eac2/artifacts',0,1795632360440);
INSERT INTO "runs" VALUES('a439bc9a30384764bca87a803fc0dc67','persistent-fox-838','UNKNOWN','','','unknown','FINISHED',1795632357097,1795632358221,'','active','mlflow-artifacts:/0/a439bc9a30384764bca87a803fc0dc67/artifacts',0,NULL);
INSERT INTO "runs" VALUES('81e9265308a441ed892216d556326b9f','resilient-asp-184','UNKNOWN','','','unknown','FINISHED',1795632358376,1795632359093,'','active','mlflow-artifacts:/1/81e9265308a441ed892216d556326b9f/artifacts',1,NULL);
INSERT INTO "runs" VALUES('1dc6bdad3f80436b9d25dd6d3a4ff707','nosy-foal-655','UNKNOWN','','','unknown','FINISHED',1795632359161,1795632359896,'','active','mlflow-artifacts:/1/1dc6bdad3f80436b9d25dd6d3a4ff707/artifacts',1,NULL);
CREATE TABLE "tags" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	run_uuid VARCHAR(32) NOT NULL, 
	CONSTRAINT tag_pk PRIMARY KEY ("key", run_uuid), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid)
);
INSERT INTO "tags" VALUES('mlflow.runName','whimsical-panda-483','ac34a64954764be1a9cf5c49acd6eac2');
INSERT INTO "tags" VALUES('of','Default','ac34a64954764be1a9cf5c49acd6eac2');
INSERT INTO "tags" VALUES('mlflow.runName','persistent-fox-838','a439bc9a30384764bca87a803fc0dc67');
INSERT INTO "tags" VALUES('of','Default','a439bc9a30384764bca87a803fc0dc67');
INSERT INTO "tags" VALUES('mlflow.runName','resilient-asp-184','81e9265308a441ed892216d556326b9f');
INSERT INTO "tags" VALUES('of','iris','81e9265308a441ed892216d556326b9f');
INSERT INTO "tags" VALUES('mlflow.runName','nosy-foal-655','1dc6bdad3f80436b9d25dd6d3a4ff707');
INSERT INTO "tags" VALUES('of','iris','1dc6bdad3f80436b9d25dd6d3a4ff707');
CREATE INDEX index_metrics_run_uuid ON metrics (run_uuid);
CREATE INDEX index_latest_metrics_run_uuid ON latest_metrics (run_uuid);
CREATE INDEX index_tags_run_uuid ON tags (run_uuid);
CREATE INDEX index_params_run_uuid ON params (run_uuid);
COMMIT;
