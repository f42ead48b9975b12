-- A database of schema 0002 as that program wrote it: three annotators, a project, a decision, a training run, and
-- one of three clips deleted again. Label 9 is a skip of what label 1 judged, and label 1 counts.
BEGIN TRANSACTION;
CREATE TABLE adjudications (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	clip_id INTEGER NOT NULL, 
	start_s DOUBLE, 
	end_s DOUBLE, 
	target VARCHAR NOT NULL, 
	emotions JSON NOT NULL, 
	annotator_id INTEGER NOT NULL, 
	comment VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	FOREIGN KEY(clip_id) REFERENCES clips (id) ON DELETE CASCADE, 
	FOREIGN KEY(annotator_id) REFERENCES annotators (id)
);
INSERT INTO "adjudications" VALUES(1,2,NULL,NULL,'all','{"fear": 1.0}',5,'hesitant','2026-03-01 22:19:11.139026');
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);
INSERT INTO "alembic_version" VALUES('0002');
CREATE TABLE annotators (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name VARCHAR NOT NULL, 
	role VARCHAR NOT NULL, 
	created_at DATETIME, 
	UNIQUE (name)
);
INSERT INTO "annotators" VALUES(1,'ann','annotator','2026-03-01 22:19:10.761836');
INSERT INTO "annotators" VALUES(2,'bea','annotator','2026-03-01 22:19:10.920904');
INSERT INTO "annotators" VALUES(3,'cy','annotator','2026-03-01 22:19:11.100203');
INSERT INTO "annotators" VALUES(4,'ada','annotator','2026-03-01 22:19:11.110791');
INSERT INTO "annotators" VALUES(5,'rita','annotator','2026-03-01 22:19:11.137273');
CREATE TABLE assignments (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	project_id INTEGER NOT NULL, 
	item_id INTEGER NOT NULL, 
	annotator_id INTEGER NOT NULL, 
	state VARCHAR NOT NULL, 
	gold BOOLEAN NOT NULL, 
	leased_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	finished_at DATETIME, 
	CHECK (state IN ('leased', 'done', 'released', 'expired')), 
	FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE, 
	FOREIGN KEY(item_id) REFERENCES items (id) ON DELETE CASCADE, 
	FOREIGN KEY(annotator_id) REFERENCES annotators (id)
);
INSERT INTO "assignments" VALUES(1,1,1,1,'done',0,'2026-03-01 22:19:10.762964','2026-03-01 22:34:10.762969','2026-03-01 22:19:10.835600');
INSERT INTO "assignments" VALUES(2,1,2,1,'done',0,'2026-03-01 22:19:10.859829','2026-03-01 22:34:10.859836','2026-03-01 22:19:10.881733');
INSERT INTO "assignments" VALUES(4,1,1,2,'done',0,'2026-03-01 22:19:10.925821','2026-03-01 22:34:10.925826','2026-03-01 22:19:10.939192');
INSERT INTO "assignments" VALUES(5,1,2,2,'done',0,'2026-03-01 22:19:10.957181','2026-03-01 22:34:10.957189','2026-03-01 22:19:10.978813');
CREATE TABLE audit (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at DATETIME NOT NULL, 
	actor VARCHAR NOT NULL, 
	action VARCHAR NOT NULL, 
	detail JSON NOT NULL
);
INSERT INTO "audit" VALUES(1,'2026-03-01 22:19:10.704361','ada','project.create','{"project": "voices"}');
INSERT INTO "audit" VALUES(2,'2026-03-01 22:19:11.126360','ada','gold.set','{"project": "voices", "item": 3, "target": "all"}');
INSERT INTO "audit" VALUES(3,'2026-03-01 22:19:11.147982','rita','adjudication.decide','{"adjudication": 1, "target": "all", "emotions": {"fear": 1.0}}');
INSERT INTO "audit" VALUES(4,'2026-03-01 22:19:11.213705','system','clip.delete','{"n_clips": 1, "n_labels": 3, "labels_kept": false}');
CREATE TABLE clips (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	sha256 VARCHAR(64) NOT NULL, 
	name VARCHAR NOT NULL, 
	path VARCHAR, 
	media VARCHAR, 
	source VARCHAR NOT NULL, 
	speaker VARCHAR, 
	duration_s DOUBLE, 
	features VARCHAR, 
	keep_until DATETIME, 
	created_at DATETIME NOT NULL, 
	UNIQUE (sha256)
);
INSERT INTO "clips" VALUES(1,'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','a.wav',NULL,NULL,'import','zoe',2.5,NULL,NULL,'2026-03-01 22:19:10.639593');
INSERT INTO "clips" VALUES(2,'bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','b.wav',NULL,NULL,'import',NULL,2.5,NULL,NULL,'2026-03-01 22:19:10.650984');
CREATE TABLE consents (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	clip_id INTEGER NOT NULL, 
	text_version VARCHAR(12) NOT NULL, 
	text VARCHAR NOT NULL, 
	scope VARCHAR DEFAULT 'media' NOT NULL, 
	given_at DATETIME NOT NULL, 
	FOREIGN KEY(clip_id) REFERENCES clips (id) ON DELETE CASCADE
);
CREATE TABLE current_labels (
	label_id INTEGER NOT NULL, 
	clip_id INTEGER NOT NULL, 
	annotator_id INTEGER NOT NULL, 
	item_id INTEGER, 
	target VARCHAR NOT NULL, 
	top VARCHAR, 
	outcome VARCHAR NOT NULL, 
	PRIMARY KEY (label_id), 
	FOREIGN KEY(label_id) REFERENCES labels (id) ON DELETE CASCADE, 
	FOREIGN KEY(clip_id) REFERENCES clips (id) ON DELETE CASCADE, 
	FOREIGN KEY(annotator_id) REFERENCES annotators (id), 
	FOREIGN KEY(item_id) REFERENCES items (id) ON DELETE SET NULL
);
INSERT INTO "current_labels" VALUES(1,1,1,1,'all','anger','label');
INSERT INTO "current_labels" VALUES(2,2,1,2,'all','fear','label');
INSERT INTO "current_labels" VALUES(4,1,2,1,'all','anger','label');
INSERT INTO "current_labels" VALUES(5,2,2,2,'all','sadness','label');
INSERT INTO "current_labels" VALUES(8,1,3,NULL,'voice','fear','label');
CREATE TABLE gold (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	item_id INTEGER NOT NULL, 
	target VARCHAR NOT NULL, 
	emotions JSON NOT NULL, 
	why VARCHAR NOT NULL, 
	annotator_id INTEGER, 
	created_at DATETIME NOT NULL, 
	FOREIGN KEY(item_id) REFERENCES items (id) ON DELETE CASCADE, 
	FOREIGN KEY(annotator_id) REFERENCES annotators (id)
);
CREATE TABLE items (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	project_id INTEGER NOT NULL, 
	utterance_id INTEGER NOT NULL, 
	priority DOUBLE NOT NULL, 
	open_slots INTEGER NOT NULL, 
	gold BOOLEAN NOT NULL, 
	created_at DATETIME NOT NULL, 
	UNIQUE (project_id, utterance_id), 
	FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE, 
	FOREIGN KEY(utterance_id) REFERENCES utterances (id) ON DELETE CASCADE
);
INSERT INTO "items" VALUES(1,1,1,0.0,0,0,'2026-03-01 22:19:10.740284');
INSERT INTO "items" VALUES(2,1,2,0.0,0,0,'2026-03-01 22:19:10.740291');
CREATE TABLE labels (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	clip_id INTEGER NOT NULL, 
	annotator_id INTEGER NOT NULL, 
	prediction_id INTEGER, 
	supersedes INTEGER, 
	start_s DOUBLE, 
	end_s DOUBLE, 
	target VARCHAR NOT NULL, 
	outcome VARCHAR NOT NULL, 
	emotions JSON NOT NULL, 
	top VARCHAR, 
	confidence DOUBLE, 
	intensity DOUBLE, 
	valence DOUBLE, 
	arousal DOUBLE, 
	comment VARCHAR NOT NULL, 
	transcript VARCHAR, 
	item_id INTEGER, 
	assignment_id INTEGER, 
	lead_time_s DOUBLE, 
	blind BOOLEAN, 
	created_at DATETIME NOT NULL, 
	CHECK (target IN ('all', 'face', 'voice', 'text')), 
	CHECK (outcome IN ('label', 'skip', 'cannot_tell', 'broken', 'undo')), 
	FOREIGN KEY(clip_id) REFERENCES clips (id) ON DELETE CASCADE, 
	FOREIGN KEY(annotator_id) REFERENCES annotators (id), 
	FOREIGN KEY(prediction_id) REFERENCES predictions (id) ON DELETE SET NULL, 
	FOREIGN KEY(supersedes) REFERENCES labels (id), 
	FOREIGN KEY(item_id) REFERENCES items (id) ON DELETE SET NULL, 
	FOREIGN KEY(assignment_id) REFERENCES assignments (id) ON DELETE SET NULL
);
INSERT INTO "labels" VALUES(1,1,1,1,NULL,NULL,NULL,'all','label','{"anger": 1.0}','anger',NULL,NULL,NULL,NULL,'',NULL,1,1,3.5,1,'2026-03-01 22:19:10.815812');
INSERT INTO "labels" VALUES(2,2,1,2,NULL,NULL,NULL,'all','label','{"fear": 1.0}','fear',NULL,NULL,NULL,NULL,'low',NULL,2,2,3.5,1,'2026-03-01 22:19:10.874229');
INSERT INTO "labels" VALUES(4,1,2,1,NULL,NULL,NULL,'all','label','{"anger": 1.0}','anger',NULL,NULL,NULL,NULL,'',NULL,1,4,3.5,1,'2026-03-01 22:19:10.936400');
INSERT INTO "labels" VALUES(5,2,2,2,NULL,NULL,NULL,'all','label','{"sadness": 1.0}','sadness',NULL,NULL,NULL,NULL,'',NULL,2,5,3.5,1,'2026-03-01 22:19:10.969531');
INSERT INTO "labels" VALUES(8,1,3,NULL,NULL,0.5,1.5,'voice','label','{"anger": 0.3, "fear": 0.7}','fear',0.9,NULL,NULL,NULL,'',NULL,NULL,NULL,NULL,NULL,'2026-03-01 22:19:11.101086');
INSERT INTO "labels" VALUES(9,1,1,NULL,NULL,NULL,NULL,'all','skip','{}',NULL,NULL,NULL,NULL,NULL,'',NULL,1,NULL,NULL,NULL,'2026-03-01 22:19:11.104330');
CREATE TABLE predictions (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	clip_id INTEGER NOT NULL, 
	start_s DOUBLE, 
	end_s DOUBLE, 
	checkpoint VARCHAR NOT NULL, 
	emotion VARCHAR NOT NULL, 
	probs JSON NOT NULL, 
	per_modality JSON NOT NULL, 
	present JSON NOT NULL, 
	created_at DATETIME NOT NULL, 
	FOREIGN KEY(clip_id) REFERENCES clips (id) ON DELETE CASCADE
);
INSERT INTO "predictions" VALUES(1,1,NULL,NULL,'base','fear','{"fear": 0.6, "anger": 0.4}','{"face": null, "voice": {"probs": {"fear": 0.6, "anger": 0.4}, "emotion": "fear"}, "text": null}','{"face": false, "voice": true, "text": false}','2026-03-01 22:19:10.673907');
INSERT INTO "predictions" VALUES(2,2,NULL,NULL,'base','fear','{"fear": 0.6, "anger": 0.4}','{"face": null, "voice": {"probs": {"fear": 0.6, "anger": 0.4}, "emotion": "fear"}, "text": null}','{"face": false, "voice": true, "text": false}','2026-03-01 22:19:10.687079');
CREATE TABLE projects (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name VARCHAR NOT NULL, 
	guidelines VARCHAR NOT NULL, 
	label_set JSON NOT NULL, 
	targets JSON NOT NULL, 
	per_item INTEGER NOT NULL, 
	gold_share DOUBLE NOT NULL, 
	"order" VARCHAR NOT NULL, 
	blind BOOLEAN NOT NULL, 
	lease_s INTEGER NOT NULL, 
	ranked_to INTEGER NOT NULL, 
	revision INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, 
	UNIQUE (name)
);
INSERT INTO "projects" VALUES(1,'voices','# Listen','["anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"]','["all"]',2,0.0,'random',1,900,0,1,'2026-03-01 22:19:10.702155');
CREATE TABLE removals (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at DATETIME NOT NULL, 
	n_clips INTEGER NOT NULL, 
	n_labels INTEGER NOT NULL, 
	labels_kept BOOLEAN NOT NULL, 
	run_id INTEGER, 
	FOREIGN KEY(run_id) REFERENCES training_runs (id) ON DELETE SET NULL
);
INSERT INTO "removals" VALUES(1,'2026-03-01 22:19:11.215209',1,3,0,NULL);
CREATE TABLE standings (
	item_id INTEGER NOT NULL, 
	target VARCHAR NOT NULL, 
	project_id INTEGER NOT NULL, 
	n_labels INTEGER NOT NULL, 
	entropy DOUBLE NOT NULL, 
	cannot_tell BOOLEAN NOT NULL, 
	broken BOOLEAN NOT NULL, 
	commented BOOLEAN NOT NULL, 
	model_differs BOOLEAN NOT NULL, 
	decided BOOLEAN NOT NULL, 
	PRIMARY KEY (item_id, target), 
	FOREIGN KEY(item_id) REFERENCES items (id) ON DELETE CASCADE, 
	FOREIGN KEY(project_id) REFERENCES projects (id) ON DELETE CASCADE
);
INSERT INTO "standings" VALUES(1,'all',1,2,0.0,0,0,0,1,0);
INSERT INTO "standings" VALUES(2,'all',1,2,1.0,0,0,1,0,1);
CREATE TABLE training_run_labels (
	run_id INTEGER NOT NULL, 
	label_id INTEGER NOT NULL, 
	PRIMARY KEY (run_id, label_id), 
	FOREIGN KEY(run_id) REFERENCES training_runs (id) ON DELETE CASCADE, 
	FOREIGN KEY(label_id) REFERENCES labels (id) ON DELETE CASCADE
);
INSERT INTO "training_run_labels" VALUES(1,1);
CREATE TABLE training_runs (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	started_at DATETIME NOT NULL, 
	finished_at DATETIME, 
	parent VARCHAR, 
	checkpoint VARCHAR, 
	verdict VARCHAR, 
	aggregation VARCHAR, 
	report JSON
);
INSERT INTO "training_runs" VALUES(1,'2026-03-01 22:19:11.159041','2026-03-01 22:19:11.167871','base','child','promoted',NULL,'{"uar": 0.5}');
CREATE TABLE utterances (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	clip_id INTEGER NOT NULL, 
	start_s DOUBLE, 
	end_s DOUBLE, 
	transcript VARCHAR, 
	embedding BLOB, 
	created_at DATETIME NOT NULL, 
	FOREIGN KEY(clip_id) REFERENCES clips (id) ON DELETE CASCADE
);
INSERT INTO "utterances" VALUES(1,1,NULL,NULL,'so it is',NULL,'2026-03-01 22:19:10.715203');
INSERT INTO "utterances" VALUES(2,2,NULL,NULL,'so it is',NULL,'2026-03-01 22:19:10.723882');
CREATE INDEX ix_clips_speaker ON clips (speaker);
CREATE INDEX ix_clips_keep_until ON clips (keep_until);
CREATE UNIQUE INDEX ux_utterances ON utterances (clip_id, coalesce(start_s, -1), coalesce(end_s, -1));
CREATE INDEX ix_consents_clip_id ON consents (clip_id);
CREATE INDEX ix_predictions_clip_id ON predictions (clip_id);
CREATE INDEX ix_adjudications_clip_id ON adjudications (clip_id);
CREATE INDEX ix_items_utterance_id ON items (utterance_id);
CREATE INDEX ix_items_open ON items (project_id, priority DESC, id) WHERE open_slots > 0 AND NOT gold;
CREATE INDEX ix_items_gold ON items (project_id) WHERE gold;
CREATE INDEX ix_gold_item_id ON gold (item_id);
CREATE INDEX ix_assignments_live ON assignments (project_id, expires_at) WHERE state = 'leased';
CREATE INDEX ix_assignments_gold ON assignments (annotator_id, project_id) WHERE gold;
CREATE UNIQUE INDEX ux_assignments ON assignments (item_id, annotator_id) WHERE state IN ('leased', 'done');
CREATE INDEX ix_assignments_person ON assignments (annotator_id, project_id, state, finished_at);
CREATE INDEX ix_standings ON standings (project_id, target, entropy DESC, n_labels DESC, item_id);
CREATE INDEX ix_labels_supersedes ON labels (supersedes);
CREATE INDEX ix_labels_prediction_id ON labels (prediction_id);
CREATE INDEX ix_labels_key ON labels (clip_id, annotator_id, target);
CREATE INDEX ix_labels_assignment_id ON labels (assignment_id);
CREATE INDEX ix_labels_item_id ON labels (item_id);
CREATE TRIGGER labels_append_only BEFORE UPDATE OF id, clip_id, annotator_id, supersedes, start_s, end_s, target, outcome, emotions, top, confidence, intensity, valence, arousal, lead_time_s, blind, created_at ON labels BEGIN SELECT RAISE(ABORT, 'labels are appended, never edited'); END;
CREATE TRIGGER labels_words_only_erased BEFORE UPDATE OF comment, transcript ON labels WHEN (NEW.comment <> '' OR NEW.transcript IS NOT NULL) BEGIN SELECT RAISE(ABORT, 'labels are appended, never edited'); END;
CREATE INDEX ix_current_labels_clip ON current_labels (clip_id, annotator_id);
CREATE INDEX ix_current_labels_item ON current_labels (item_id, target);
CREATE INDEX ix_training_run_labels_label_id ON training_run_labels (label_id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('clips',3);
INSERT INTO "sqlite_sequence" VALUES('predictions',3);
INSERT INTO "sqlite_sequence" VALUES('projects',1);
INSERT INTO "sqlite_sequence" VALUES('audit',4);
INSERT INTO "sqlite_sequence" VALUES('utterances',3);
INSERT INTO "sqlite_sequence" VALUES('items',3);
INSERT INTO "sqlite_sequence" VALUES('annotators',5);
INSERT INTO "sqlite_sequence" VALUES('assignments',6);
INSERT INTO "sqlite_sequence" VALUES('labels',9);
INSERT INTO "sqlite_sequence" VALUES('gold',1);
INSERT INTO "sqlite_sequence" VALUES('adjudications',1);
INSERT INTO "sqlite_sequence" VALUES('training_runs',1);
INSERT INTO "sqlite_sequence" VALUES('removals',1);
COMMIT;
