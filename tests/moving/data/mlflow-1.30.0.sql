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
INSERT INTO "experiments" VALUES(0,'Default','/usr/local/share/mlflow/0','active',1795631956931,1795631956931);
INSERT INTO "experiments" VALUES(1,'iris','/usr/local/share/mlflow/1','active',1795632081613,1795632081613);
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
INSERT INTO "latest_metrics" VALUES('loss',3.33333333333333328707e-02,1795632099246,2,0,'55806b256f674a8e8885c4eca680d649');
INSERT INTO "latest_metrics" VALUES('loss',6.66666666666666657414e-02,1795632107890,2,0,'eed30b1e30c44e758c9fb497278eb0c7');
INSERT INTO "latest_metrics" VALUES('loss',3.33333333333333328707e-02,1795632108852,2,0,'7dbd096d70f94daca2bfe2d5126dbed9');
INSERT INTO "latest_metrics" VALUES('loss',6.66666666666666657414e-02,1795632109794,2,0,'33142f211d124d78aead1f541d65d4e7');
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
INSERT INTO "metrics" VALUES('loss',0.1,1795632098979,'55806b256f674a8e8885c4eca680d649',0,0);
INSERT INTO "metrics" VALUES('loss',0.05,1795632099093,'55806b256f674a8e8885c4eca680d649',1,0);
INSERT INTO "metrics" VALUES('loss',3.33333333333333328707e-02,1795632099246,'55806b256f674a8e8885c4eca680d649',2,0);
INSERT INTO "metrics" VALUES('loss',0.2,1795632107647,'eed30b1e30c44e758c9fb497278eb0c7',0,0);
INSERT INTO "metrics" VALUES('loss',0.1,1795632107756,'eed30b1e30c44e758c9fb497278eb0c7',1,0);
INSERT INTO "metrics" VALUES('loss',6.66666666666666657414e-02,1795632107890,'eed30b1e30c44e758c9fb497278eb0c7',2,0);
INSERT INTO "metrics" VALUES('loss',0.1,1795632108649,'7dbd096d70f94daca2bfe2d5126dbed9',0,0);
INSERT INTO "metrics" VALUES('loss',0.05,1795632108769,'7dbd096d70f94daca2bfe2d5126dbed9',1,0);
INSERT INTO "metrics" VALUES('loss',3.33333333333333328707e-02,1795632108852,'7dbd096d70f94daca2bfe2d5126dbed9',2,0);
INSERT INTO "metrics" VALUES('loss',0.2,1795632109561,'33142f211d124d78aead1f541d65d4e7',0,0);
INSERT INTO "metrics" VALUES('loss',0.1,1795632109647,'33142f211d124d78aead1f541d65d4e7',1,0);
INSERT INTO "metrics" VALUES('loss',6.66666666666666657414e-02,1795632109794,'33142f211d124d78aead1f541d65d4e7',2,0);
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
INSERT INTO "model_versions" VALUES('flowers',1,1795632110605,1795632110605,'',NULL,'None','/usr/local/share/mlflow/1/33142f211d124d78aead1f541d65d4e7/artifacts/notes','33142f211d124d78aead1f541d65d4e7','READY',NULL,'');
CREATE TABLE "params" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(500) NOT NULL, 
	run_uuid VARCHAR(32) NOT NULL, 
	CONSTRAINT param_pk PRIMARY KEY ("key", run_uuid), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid)
);
INSERT INTO "params" VALUES('rate','0.1','55806b256f674a8e8885c4eca680d649');
INSERT INTO "params" VALUES('rate','0.2','eed30b1e30c44e758c9fb497278eb0c7');
INSERT INTO "params" VALUES('rate','0.1','7dbd096d70f94daca2bfe2d5126dbed9');
INSERT INTO "params" VALUES('rate','0.2','33142f211d124d78aead1f541d65d4e7');
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
INSERT INTO "registered_models" VALUES('flowers',1795632110367,1795632110605,'');
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
	CONSTRAINT source_type CHECK (source_type IN ('NOTEBOOK', 'JOB', 'LOCAL', 'UNKNOWN', 'PROJECT')), 
	CONSTRAINT runs_lifecycle_stage CHECK (lifecycle_stage IN ('active', 'deleted')), 
	FOREIGN KEY(experiment_id) REFERENCES experiments (experiment_id), 
	CHECK (status IN ('SCHEDULED', 'FAILED', 'FINISHED', 'RUNNING', 'KILLED'))
);
INSERT INTO "runs" VALUES('55806b256f674a8e8885c4eca680d649','lyrical-squirrel-790','UNKNOWN','','','unknown','FINISHED',1795632081672,1795632107077,'','deleted','/usr/local/share/mlflow/0/55806b256f674a8e8885c4eca680d649/artifacts',0,1795632110777);
INSERT INTO "runs" VALUES('eed30b1e30c44e758c9fb497278eb0c7','enchanting-wasp-647','UNKNOWN','','','unknown','FINISHED',1795632107231,1795632108197,'','active','/usr/local/share/mlflow/0/eed30b1e30c44e758c9fb497278eb0c7/artifacts',0,NULL);
INSERT INTO "runs" VALUES('7dbd096d70f94daca2bfe2d5126dbed9','bemused-bee-858','UNKNOWN','','','unknown','FINISHED',1795632108349,1795632109157,'','active','/usr/local/share/mlflow/1/7dbd096d70f94daca2bfe2d5126dbed9/artifacts',1,NULL);
INSERT INTO "runs" VALUES('33142f211d124d78aead1f541d65d4e7','powerful-eel-132','UNKNOWN','','','unknown','FINISHED',1795632109261,1795632109994,'','active','/usr/local/share/mlflow/1/33142f211d124d78aead1f541d65d4e7/artifacts',1,NULL);
CREATE TABLE "tags" (
	"key" VARCHAR(250) NOT NULL, 
	value VARCHAR(5000), 
	run_uuid VARCHAR(32) NOT NULL, 
	CONSTRAINT tag_pk PRIMARY KEY ("key", run_uuid), 
	FOREIGN KEY(run_uuid) REFERENCES runs (run_uuid)
);
INSERT INTO "tags" VALUES('mlflow.runName','lyrical-squirrel-790','55806b256f674a8e8885c4eca680d649');
INSERT INTO "tags" VALUES('of','Default','55806b256f674a8e8885c4eca680d649');
INSERT INTO "tags" VALUES('mlflow.runName','enchanting-wasp-647','eed30b1e30c44e758c9fb497278eb0c7');
INSERT INTO "tags" VALUES('of','Default','eed30b1e30c44e758c9fb497278eb0c7');
INSERT INTO "tags" VALUES('mlflow.runName','bemused-bee-858','7dbd096d70f94daca2bfe2d5126dbed9');
INSERT INTO "tags" VALUES('of','iris','7dbd096d70f94daca2bfe2d5126dbed9');
INSERT INTO "tags" VALUES('mlflow.runName','powerful-eel-132','33142f211d124d78aead1f541d65d4e7');
INSERT INTO "tags" VALUES('of','iris','33142f211d124d78aead1f541d65d4e7');
CREATE INDEX index_metrics_run_uuid ON metrics (run_uuid);
CREATE INDEX index_latest_metrics_run_uuid ON latest_metrics (run_uuid);
CREATE INDEX index_tags_run_uuid ON tags (run_uuid);
CREATE INDEX index_params_run_uuid ON params (run_uuid);
COMMIT;
